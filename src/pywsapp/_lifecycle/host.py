"""The host of the lifecycles of connections: a server, or a client."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from pywsapp._outbox.outbox import Flusher
from pywsapp.connection import Connection


class Host(Protocol):
    """The part of a server or client that its lifecycles use."""

    flusher: Flusher

    def start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that lives at least until `work` returns, or is cancelled with the host."""

    def disconnected(self, connection: Any) -> None:
        """Note that a connection has lost its transport, while its handlers still run."""

    def discard(self, connection: Any) -> None:
        """Forget a connection that has ended."""

    def exceeded(self, limit: str, conn: Connection) -> None:
        """Count that a connection has exceeded a limit, and log it if that is due."""

    def user_changed(self, conn: Connection) -> None:
        """Note that a connection has a user, or another one than before, or one with another expiry."""
