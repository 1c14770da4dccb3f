"""One message to many connections."""

from __future__ import annotations

from collections.abc import Iterable

from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp.connection import Connection


def broadcast(
    connections: Iterable[Connection],
    message: Sendable | PreparedMessage,
    *,
    exclude: Connection | Iterable[Connection] = (),
    compress: bool | None = None,
) -> None:
    """Send one message to many connections, encoded once for each wire format among them. Never blocks.

    Closed connections are left out; a slow one is dealt with by its own `Options.slow_consumer`.

    Args:
        connections: any iterable; it may change while this runs, for instance by handlers.
        message: text or bytes.
        exclude: a connection or several that do not get it, usually the sender.
        compress: as for `Connection.send`.

    Raises:
        TypeError: the message is neither text nor bytes.
        ConfigurationError: the text has no UTF-8 form.
    """
    prepared = message if isinstance(message, PreparedMessage) else PreparedMessage(message, compress=compress)
    left_out = frozenset((exclude,) if isinstance(exclude, Connection) else exclude)
    send_prepared_to_all(list(connections), prepared, left_out)


def send_prepared_to_all(
    connections: list[Connection], message: PreparedMessage, left_out: frozenset[Connection]
) -> None:
    """Send a prepared message to connections, some left out; the innermost loop of every broadcast."""
    for connection in connections:
        if connection not in left_out:
            connection.send_prepared(message)
