"""An App that runs cannot be configured; the attempt raises and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


#: Methods that need a startup hook, or follow topics or users from the start on.
LATE_CALLS: dict[str, Callable[[App], Any]] = {
    "presence": lambda app: app.presence("room:*"),
    "on_presence": lambda app: app.on_presence("room:*"),
    "on_broadcast": lambda app: app.on_broadcast("room:*"),
    "on_occupied": lambda app: app.on_occupied("room:*"),
    "on_vacated": lambda app: app.on_vacated("room:*"),
    "on_user_online": lambda app: app.on_user_online(print),
    "on_user_offline": lambda app: app.on_user_offline(print),
    "on_startup": lambda app: app.on_startup(print),
    "status": lambda app: app.status(guard=["127.0.0.1"]),
    "asyncapi_page": lambda app: app.asyncapi_page("/messages"),
    "site": lambda app: app.site(print),
}


@pytest.mark.parametrize("name", LATE_CALLS)
async def test_the_error_of_a_late_call_names_its_method(name: str) -> None:
    app = App("chat.example", 0)
    before = app.router.routes()
    async with running(app):
        with pytest.raises(ConfigurationError, match=rf"^App\.{name} must be called before the app runs$"):
            LATE_CALLS[name](app)
        assert not app.topics.presence.watchers
        assert app.topics.occupancy._kinds == []
    assert app.router.routes() == before


async def test_a_startup_hook_adds_a_hook_in_each_run() -> None:
    app, calls = App("chat.example", 0), list[str]()

    @app.on_startup
    def prepare() -> None:
        calls.append("prepare")
        if len(calls) == 1:
            app.on_startup(lambda: calls.append("added"))

    for _ in range(2):
        async with running(app):
            pass
    assert calls == ["prepare", "added"] * 2
