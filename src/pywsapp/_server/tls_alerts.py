"""The alert of a failed TLS handshake, which asyncio and uvloop do not send.

OpenSSL writes an alert that says why it refuses a client (RFC 8446, section 6.2), such as `certificate_required`. Both
event loops close the connection without it, and the client sees an end of the stream without a reason: in TLS 1.3 its
own handshake has succeeded already. So where clients show certificates, the exception has the alert, and the
server sends it on a second descriptor of the socket, because the event loop has closed the first one by then.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class AlertingObject(ssl.SSLObject):
    """The state of TLS of a connection, whose failed handshake raises an exception with the alert."""

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as exc:
            alert = self.outgoing.read()
            exc.alert = alert  # type: ignore[attr-defined]
            self.outgoing.write(alert)  # on trio, the caller sends it
            raise


class AlertingContext(ssl.SSLContext):
    """A context whose failed handshakes raise exceptions with the alert."""

    sslobject_class = AlertingObject

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any) -> ssl.SSLObject:
        found = super().wrap_bio(incoming, outgoing, *args, **options)
        assert isinstance(found, AlertingObject)
        found.outgoing = outgoing
        return found


@contextmanager
def sending_alerts(sock: socket.socket, context: ssl.SSLContext | None) -> Iterator[None]:
    """Send the alert if a handshake on the socket fails in the block; does nothing for other contexts."""
    if not isinstance(context, AlertingContext):
        yield
        return
    with sock.dup() as second:
        try:
            yield
        except ssl.SSLError as exc:
            if alert := getattr(exc, "alert", b""):
                with suppress(OSError):
                    second.send(alert)
            raise
