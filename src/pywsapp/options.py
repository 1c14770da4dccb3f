"""Every limit and timeout of a connection, in one object: `Options`.

Sizes are in bytes and times in seconds. The defaults are safe on a hostile network. An `App` takes `Options` for all
its connections, and a route takes `Options` for its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import Enum
from operator import attrgetter
from typing import Protocol

from pywsapp.exceptions import ConfigurationError

_NUMBERS = ("int", "float")
#: Options that only the server reads, before it knows the route or for all connections at once.
SERVER_WIDE = (
    "max_header_size",
    "max_headers",
    "handshake_timeout",
    "min_http_rate",
    "drain_delay",
    "drain_timeout",
    "max_histories",
    "max_history_bytes",
    "max_presence_bytes",
    "absence_delay",
)


class Compressor(Protocol):
    """The interface of the objects that `zlib.compressobj` returns."""

    def compress(self, data: bytes, /) -> bytes:
        """Compress bytes, and return the output that is ready so far."""

    def flush(self, mode: int, /) -> bytes:
        """Return the remaining output; the mode is one of zlib's."""


class SlowConsumer(Enum):
    """The policy for a full outbox of a connection, whose peer reads too slowly."""

    CLOSE = "close"  #: drop all queued messages and close the connection with 1013
    DROP_NEWEST = "drop_newest"  #: drop the new message, which does not fit
    DROP_OLDEST = "drop_oldest"  #: drop queued messages, oldest first, until the new message fits


class TooMany(Enum):
    """The policy for a user with `App(max_connections_per_user=...)` connections that opens another one."""

    REFUSE = "refuse"  #: refuse the new connection with status 429
    CLOSE_OLDEST = "close_oldest"  #: close the user's oldest connection with 1008, in whichever worker it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """How permessage-deflate (RFC 7692) is negotiated and used.

    The window sizes are upper bounds: a peer that asks for less gets less. Context takeover compresses small, similar
    messages better, and costs about 45 KiB of memory for each connection at 12 bits. Without it a compressor lives for
    one message only, and a broadcast is compressed once for all its receivers.

    Args:
        server_max_window_bits: the size of the server's LZ77 window as a power of two, 9 to 15 (12 is 4 KiB). zlib
            cannot compress with 8.
        client_max_window_bits: the same for the client's window. The server asks a client for it only if the client
            offered to take a limit.
        server_no_context_takeover: the server starts each message with an empty window.
        client_no_context_takeover: the server asks the client to start each message with an empty window.
        level: zlib's compression level, 0 (fastest) to 9 (smallest).
        mem_level: zlib's memory level, 1 to 9; a compressor takes 2 ** (mem_level + 9) bytes besides its window.
        threshold: bytes of a message from which on it is compressed; a shorter message is sent as it is, and so is one
            of 16 KiB or more whose bytes look random, such as an image. A message that is sent with `compress=True` or
            `compress=False` ignores both.
        compressor: a function that makes the compressors, called with the level, the negative window bits and the
            memory level; `pywsapp.isal.compressor`, for example. None uses `zlib.compressobj`.

    Raises:
        ConfigurationError: a value is out of range or of another type.
    """

    server_max_window_bits: int = 12
    client_max_window_bits: int = 12
    server_no_context_takeover: bool = True
    client_no_context_takeover: bool = True
    level: int = 6
    mem_level: int = 5
    threshold: int = 1024
    compressor: Callable[[int, int, int], Compressor] | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("server_max_window_bits", 9, 15),
            ("client_max_window_bits", 9, 15),
            ("level", 0, 9),
            ("mem_level", 1, 9),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigurationError(f"Deflate.{name} must be a whole number from {low} to {high}, not {value!r}")
        if type(self.threshold) is not int or self.threshold < 0:
            raise ConfigurationError(f"Deflate.threshold must be a whole number from 0 on, not {self.threshold!r}")
        if self.compressor is not None and not callable(self.compressor):
            raise ConfigurationError(f"Deflate.compressor must be a function or None, not {self.compressor!r}")
        for name in ("server_no_context_takeover", "client_no_context_takeover"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"Deflate.{name} must be True or False, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The limits and timeouts of connections.

    Args:
        max_message_size: bytes of one received message, counted after inflating, and while it is inflated. A larger
            message closes the connection with 1009. Each connection can hold this much memory for `message_timeout`.
        max_frame_size: bytes of one received frame on the wire. A larger frame closes the connection with 1009. None
            sets no separate limit; `max_message_size` limits every frame anyway.
        max_fragments: frames of one received message, empty frames too. More close the connection with 1009.
        max_header_size: bytes of the head of a request. The server answers a longer head with 431, and a longer
            request line with 414. While a component decides on a request, the server reads no further than so many
            bytes behind the head. A client fails with HandshakeError on a longer head of the response.
        max_headers: header fields of a request. The server answers more with 431. A client fails with HandshakeError
            on more in the response.
        handshake_timeout: seconds from accepting the socket to the complete request head, PROXY header and TLS
            included. Afterwards the server answers with 408 and closes. A decision of `on_handshake` or `on_request`
            can take as long again.
        min_http_rate: bytes per second that a peer must send of the head and the body of a request, and take of a
            plain response, on average. Slower peers are dropped. None sets no rate.
        ping_interval: seconds between the pings that the peer gets. None sends no pings.
        ping_timeout: seconds after a ping in which the peer must send a pong or any other data. Afterwards the
            connection counts as lost (1006).
        close_timeout: seconds in which the peer must answer a close frame. Afterwards the connection is cut off.
        message_timeout: seconds in which a message or frame that has begun must be complete. Afterwards the
            connection is closed with 1008.
        max_queue: received messages that wait for a busy handler. With so many waiting, or with `max_message_size`
            bytes of them, the server stops reading from the connection until half of them are handled.
        handler_timeout: seconds that an async handler may take. Afterwards it is cancelled, and `on_error` gets a
            TimeoutError. None sets no limit.
        cancel_on_disconnect: whether the running handler is cancelled, and the waiting messages are dropped, when the
            transport is lost. `on_close` is called in either case.
        high_water: bytes queued for a peer above which `await conn.send(...)` waits and the server stops reading from
            that connection.
        max_outbox: bytes in the outbox of a connection. A message that would exceed it is treated as `slow_consumer`
            says. One message is always accepted into an empty outbox, whatever its size.
        slow_consumer: what the server does at `max_outbox`; see `SlowConsumer`.
        deflate: how permessage-deflate is used; None turns compression off.
        max_topics: topics that one connection can subscribe to, those that wait for an async `on_subscribe` included.
            `Topic.add` raises TopicError above it.
        control_frames_per_second: pings and unsolicited pongs that a peer may send on average. More close the
            connection with 1008.
        control_frames_burst: pings and unsolicited pongs that a peer may send at once. More close the connection with
            1008.
        drain_delay: seconds between the signal to shut down and the start of the drain. Health checks fail during
            this time and everything else continues, so that a load balancer can notice.
        drain_timeout: seconds that a drain waits for peers and handlers. Afterwards it cuts them off.
        on_close_timeout: seconds that `on_close` may still run after the cancellation of its task.
        max_histories: topics with a history that are kept in memory. When there are more, the topic whose last message
            is oldest is forgotten, with its position.
        max_history_bytes: bytes of all histories in memory. When there are more, topics are forgotten in the same way.
        max_presence_bytes: bytes of the users of other processes whose presence this process knows, about 600 for each.
            Further users are left out.
        max_connection_age: seconds after which the server closes a connection with 1012, after its running handler.
            Each connection has a random share of 90 to 110 % of it. None sets no limit.
        idle_timeout: seconds without a message in either direction after which the server closes a connection with
            1000. Pings and pongs are no messages. None sets no limit.
        max_invalid_messages: messages of a connection that typed handlers do not accept, after which the server closes
            it with 1007. None sets no limit.
        max_pending_calls: calls of a connection, by `conn.call`, that wait for their replies. A further one raises
            CallError.
        max_call_queue: received messages that wait for a busy handler in addition to `max_queue`, and with twice the
            bytes, while a call waits for its reply. Behind more of them a reply is not read before the handler ends.
        absence_delay: seconds that a topic must be without subscribers, or a user without connections, in all processes
            before `App.on_vacated`, `App.on_user_offline` and webhooks report it.
        max_pending_requests: requests of one client of a `TopicComponent` that wait for the broker, or until the client
            has read what it missed. Further requests wait like messages for a busy handler.

    Raises:
        ConfigurationError: a value is out of range or of another type.
    """

    max_message_size: int = 1024 * 1024
    max_frame_size: int | None = None
    max_fragments: int = 4096
    max_header_size: int = 16 * 1024
    max_headers: int = 100
    handshake_timeout: float = 10
    min_http_rate: float | None = 240  # Kestrel's default (MinRequestBodyDataRate, MinResponseDataRate)
    ping_interval: float | None = 20
    ping_timeout: float = 20
    close_timeout: float = 5
    message_timeout: float = 30
    max_queue: int = 16
    handler_timeout: float | None = None
    cancel_on_disconnect: bool = False
    high_water: int = 64 * 1024
    max_outbox: int = 1024 * 1024
    slow_consumer: SlowConsumer = SlowConsumer.CLOSE
    deflate: Deflate | None = None
    max_topics: int = 128
    control_frames_per_second: float = 50
    control_frames_burst: int = 100
    drain_delay: float = 0
    drain_timeout: float = 30
    on_close_timeout: float = 5
    max_histories: int = 100_000
    max_history_bytes: int = 256 * 1024 * 1024
    max_presence_bytes: int = 64 * 1024 * 1024
    max_connection_age: float | None = None
    idle_timeout: float | None = None
    max_invalid_messages: int | None = 10
    max_pending_calls: int = 64
    max_call_queue: int = 256
    absence_delay: float = 1
    max_pending_requests: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            kind, _, optional = str(field.type).partition(" | ")
            value = getattr(self, field.name)
            if kind in _NUMBERS and not (optional and value is None):
                _check_number(f"Options.{field.name}", value, whole=kind == "int", zero=field.default == 0)
        if not isinstance(self.cancel_on_disconnect, bool):
            raise ConfigurationError(
                f"Options.cancel_on_disconnect must be True or False, not {self.cancel_on_disconnect!r}"
            )
        if self.max_outbox < self.high_water:
            raise ConfigurationError("Options.max_outbox must not be smaller than Options.high_water")
        if not isinstance(self.slow_consumer, SlowConsumer):
            raise ConfigurationError(f"Options.slow_consumer must be a SlowConsumer, not {self.slow_consumer!r}")
        if self.deflate is not None and not isinstance(self.deflate, Deflate):
            raise ConfigurationError(f"Options.deflate must be a Deflate or None, not {self.deflate!r}")


def _check_number(name: str, value: object, *, whole: bool, zero: bool) -> None:
    # bool is a subclass of int, and nan is a float; neither is a limit.
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not number or not (value > 0 or (zero and value == 0)):  # type: ignore[operator]
        least = "from 0 on" if zero else "greater than 0"
        raise ConfigurationError(f"{name} must be a {'whole ' if whole else ''}number {least}, not {value!r}")


@functools.lru_cache(100)
def without_frames(options: Options) -> Options:
    """Return options for a connection without pings and compression, which are frames and their form."""
    return replace(options, ping_interval=None, deflate=None)


_server_wide = attrgetter(*SERVER_WIDE)
_SERVER_DEFAULTS = _server_wide(Options())


def check_not_server_wide(options: object, server_options: Options, what: str) -> None:
    """Check the options of a route or a connection: those that only the server reads must not differ from its own.

    Args:
        options: the options; anything else is a mistake.
        server_options: the options of the server.
        what: what has the options, for the message.

    Raises:
        ConfigurationError: they set an option that would be ignored.
    """
    if not isinstance(options, Options):
        raise ConfigurationError(f"options must be an Options, not {options!r}")
    values, own = _server_wide(options), _server_wide(server_options)
    if values in (_SERVER_DEFAULTS, own):  # the usual cases, since this is called for handshakes
        return
    each = zip(SERVER_WIDE, values, _SERVER_DEFAULTS, own, strict=True)
    ignored = [name for name, value, default, used in each if value not in (default, used)]
    if ignored:
        raise ConfigurationError(
            f"options of {what} cannot set {', '.join(ignored)}, which the server reads for all connections: "
            "set this in the options of the App"
        )
