"""A website beside the WebSockets of an App, on the own server: `App.site`.

The router asks the site for what no route matches. Its answer takes the connection over for one request
(`pywsapp.asgi.site_exchange`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import uvicorn
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import ServerState

from pywsapp._event_loop import on_asyncio
from pywsapp._log_fields import log_fields
from pywsapp._server.connection_log import ConnectionLog
from pywsapp._server.handover import HandedOver, Handover
from pywsapp.asgi.site_exchange import SiteExchange
from pywsapp.asgi.uvicorn import check_version
from pywsapp.component import MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request

if TYPE_CHECKING:
    from pywsapp.asgi.http import Receive
    from pywsapp.asgi.scope import Scope
    from pywsapp.asgi.transport import Send

check_version(uvicorn.__version__)
logger = logging.getLogger("pywsapp.site")


class Site(MessageComponent):
    """An ASGI website that answers plain requests; `App.site` makes it.

    Args:
        application: the ASGI application.
        root_path: the `root_path` of its scopes.
        idle_timeout: seconds that a connection waits for its next request.
        shutdown_seconds: returns the seconds that a shutdown hook has.

    Attributes:
        http: the HTTP protocol of uvicorn: "h11", "httptools", or "auto" for the faster one that is installed.

    Raises:
        ConfigurationError: it is no ASGI application.
    """

    http: Literal["auto", "h11", "httptools"] = "auto"

    def __init__(
        self, application: Any, root_path: str, idle_timeout: float, shutdown_seconds: Callable[[], float]
    ) -> None:
        if not callable(application):
            raise ConfigurationError(f"app.site takes an ASGI application, not {application!r}")
        self._idle_timeout = idle_timeout
        self._shutdown_seconds = shutdown_seconds
        self._config = uvicorn.Config(
            application, http=self.http, ws="none", log_config=None, proxy_headers=False, root_path=root_path
        )
        self._config.load()
        self._handover = Handover(self._take)
        self._lifespan: _Lifespan | None = None
        self._state = ServerState()

    # -- as a component ----------------------------------------------------------------------------------------------

    def on_handshake(self, request: Request) -> None:
        """Refuse a handshake on a path that no route matches."""
        raise Refuse(404, body="there is no WebSocket here, only plain HTTP")

    def on_request(self, request: Request) -> Handover:
        """Return what takes over the connection for the request."""
        return self._handover

    def _take(self, taken: HandedOver) -> None:
        if self._lifespan is None:
            raise RuntimeError("the site does not run")
        server, config = taken.server, self._config
        self._state.default_headers = [(b"date", server.date().encode())]
        make: Any = config.http_protocol_class
        http = make(config=config, server_state=self._state, app_state=self._lifespan.state)
        http.logger = logger
        http.access_log = False
        if server.connection_log.follows_requests:
            http.app = functools.partial(_answer_logged, http.app, server.connection_log, taken.request)
        if server.admission is not None:
            server.admission.add(taken.request)
        SiteExchange(taken, http, self._idle_timeout).begin()

    # -- as hooks of the App -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Run the startup of the site.

        Raises:
            ConfigurationError: it failed, or the event loop is trio.
        """
        if not on_asyncio():
            raise ConfigurationError("app.site needs asyncio or uvloop: uvicorn, which serves the site, has no trio")
        lifespan = _Lifespan(self._config)
        await lifespan.startup()
        if lifespan.should_exit:
            raise ConfigurationError(f"the site failed to start: {lifespan.failure}")
        self._lifespan = lifespan

    async def stop(self) -> None:
        """Wait for the tasks of the site, cancel those that do not end, and run the shutdown of the site.

        The App cancels a hook after its time. Half of it is for the tasks, and a quarter for those that are cancelled.
        """
        lifespan, self._lifespan = self._lifespan, None
        if lifespan is None:  # the start of the App has failed
            return
        if tasks := self._state.tasks:
            seconds = self._shutdown_seconds()
            _, late = await asyncio.wait(set(tasks), timeout=seconds / 2)
            for task in late:
                task.cancel()
            if late:
                logger.warning(
                    "%d tasks of the site did not end in time and are cancelled",
                    len(late),
                    extra=log_fields("site.tasks_cancelled", count=len(late)),
                )
                await asyncio.wait(late, timeout=seconds / 4)
        await lifespan.shutdown()


class _Lifespan(LifespanOn):
    """The lifespan of a site; it logs as the App does.

    Attributes:
        failure: the last line of what the site reports about a startup or shutdown that failed.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.logger = logger
        self.failure = "it gave no reason"

    async def send(self, message: Any) -> None:
        """Handle an event of the site."""
        if lines := str(message.get("message", "")).split("\n"):
            self.failure = next(filter(None, reversed(lines)), self.failure)
        await super().send(message)


async def _answer_logged(
    application: Any, log: ConnectionLog, request: Request, scope: Scope, receive: Receive, send: Send
) -> None:
    """Call the site, and note the end of its answer."""
    status, is_complete, began = 500, False, time.monotonic()

    async def note_and_send(message: Any) -> None:
        nonlocal status, is_complete
        if message["type"] == "http.response.start":
            status = message["status"]
        is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send(message)
        if is_complete:
            log.responded(request.remote_address or "local", request, status, began)

    try:
        with log.inside(request):
            await application(scope, receive, note_and_send)
    finally:
        if not is_complete:
            log.responded(request.remote_address or "local", request, status, began, complete=False)
