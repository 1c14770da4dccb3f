"""An App that runs cannot be configured; the attempt raises and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.wire import running

from pywsapp import App, ConfigurationError

pytestmark = pytest.mark.anyio

CALLS: dict[str, Callable[[App], None]] = {
    "http_host": lambda app: app.configure(http_host="other.example"),
    "broker": lambda app: app.configure(broker="memory"),
    "broker_key": lambda app: app.configure(broker_key="secret"),
    "listen": lambda app: app.listen(port=0),
    "rebind": lambda app: app.rebind(port=1),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_running_app_is_not_configured(name: str) -> None:
    app = App("chat.example", 0)
    app.http("/", lambda request: "")
    async with running(app):
        before = app.router.routes(), app.topics.broker, app.topics.codec.is_signing
        with pytest.raises(ConfigurationError, match="this App is running already; configure it before"):
            CALLS[name](app)
        assert (app.router.routes(), app.topics.broker, app.topics.codec.is_signing) == before
