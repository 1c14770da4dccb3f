"""`AppServer`: an App on a real port, for tests with real clients."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from anyio.abc import TaskStatus

from pywsapp.exceptions import ConfigurationError
from pywsapp.testing.running import RunningApp

if TYPE_CHECKING:
    from typing_extensions import Self

    from pywsapp.app import App


class AppServer:
    """Runs an App on a free port of 127.0.0.1: `async with AppServer(app) as server:`.

    `connect(server.ws_url + "/chat")` of pywsapp, a browser or any other client reaches it.

    Args:
        app: the App; its first socket gets the free port.

    Attributes:
        app: the App.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._running: RunningApp | None = None

    @property
    def port(self) -> int:
        """The port."""
        return self.app.port

    @property
    def url(self) -> str:
        """The URL of the App without a path: "http://localhost:41234", or https with TLS.

        Raises:
            ConfigurationError: the App does not run.
        """
        if not self.app.urls:
            raise ConfigurationError("the App does not run: write `async with AppServer(app) as server:`")
        return self.app.urls[0]

    @property
    def ws_url(self) -> str:
        """The same URL for WebSocket clients: "ws://localhost:41234"."""
        return "ws" + self.url.removeprefix("http")

    async def __aenter__(self) -> Self:
        self.app.rebind("127.0.0.1", 0)
        self._running = RunningApp(self.app, self._serve)
        await self._running.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        await self._running.stop(drains=exc is None)

    async def _serve(self, task_status: TaskStatus[None]) -> None:
        await self.app.serve(task_status=task_status)
