"""The component to try a server with."""

from __future__ import annotations

from typing import Any

from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.values.close import CloseCode


class EchoServer(MessageComponent):
    """Sends every message back as what it was, text or binary (Ratchet's EchoServer, which made all of it text)."""

    def on_message(self, conn: Connection, message: Any) -> None:
        """Send a message back; never blocks."""
        conn.send(message)

    def on_error(self, conn: Connection, exc: Exception) -> None:
        """Close with 1011, without a word in the log: there is no code here that could be mended."""
        conn.close(CloseCode.INTERNAL_ERROR)
