"""Every limit and default of a connection, in one object that is handed around whole.

Sizes are in bytes and times in seconds. The defaults are meant to be safe on a hostile network; each field says
what raising it costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from typing import Protocol

from pywsapp.exceptions import ConfigurationError

_NUMBERS = ("int", "float")


class Compressor(Protocol):
    """What `zlib.compressobj` makes."""

    def compress(self, data: bytes, /) -> bytes:
        """Take bytes, and give what is compressed so far."""

    def flush(self, mode: int, /) -> bytes:
        """Give the rest; the mode is zlib's."""


class SlowConsumer(Enum):
    """What happens when a connection's outbox is full because its peer reads too slowly."""

    CLOSE = "close"  #: drop what is queued and close with 1013
    DROP_NEWEST = "drop_newest"  #: leave the message out that did not fit
    DROP_OLDEST = "drop_oldest"  #: drop queued messages from the front until it fits


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """How permessage-deflate (RFC 7692) is negotiated and used.

    The windows are upper bounds: a peer may ask for less and gets it. Context takeover compresses small, similar
    messages better and costs about 45 KiB of memory for each connection at 12 bits; without it compressors live
    for one message only and a broadcast is compressed once for all.

    Args:
        server_max_window_bits: the server's LZ77 window, 9 to 15 (zlib cannot do 8).
        client_max_window_bits: the client's; asked of a client only if it offered to.
        server_no_context_takeover: the server forgets its window after each message.
        client_no_context_takeover: the client is asked to forget its window after each message.
        level: zlib's compression level, 0 to 9.
        mem_level: zlib's memory level, 1 to 9; memory is 2 ** (mem_level + 9).
        threshold: messages shorter than this many bytes are sent uncompressed.
        compressor: makes what compresses instead of zlib, `pywsapp.isal.compressor` for instance; called with
            the level, the negative window bits and the memory level.
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
    """The limits and timings of connections.

    Args:
        max_message_size: bytes of one message, counted after inflation and enforced during it; 1009 above.
        max_frame_size: bytes of one frame on the wire; 1009 above. None leaves it to `max_message_size`, which no
            frame gets around.
        max_fragments: frames of one message; 1009 above.
        max_header_size: bytes of a request head; 431 above.
        max_headers: fields of a request head; 431 above.
        handshake_timeout: from accepting the socket to the finished upgrade, TLS included.
        ping_interval: pause between keepalive pings; None sends none.
        ping_timeout: how long a pong may take before the connection counts as dead.
        close_timeout: how long the peer's close frame may take.
        message_timeout: how long a message may stay unfinished; 1008 after it.
        max_queue: messages that wait for a busy handler before reading stops.
        high_water: bytes in the outbox above which awaiting `send` waits and reading pauses.
        max_outbox: bytes in the outbox at which `slow_consumer` decides; one message may always be queued.
        slow_consumer: what happens at `max_outbox`.
        deflate: permessage-deflate, off when None.
        max_topics: topics that a connection may subscribe to; `Topic.add` raises TopicError above.
        control_frames_per_second: pings and pongs a peer may send on average; 1008 above.
        control_frames_burst: pings and pongs a peer may send at once.
        drain_delay: how long everything goes on after the signal to leave, while health checks fail already.
        drain_timeout: how long a drain waits for peers and handlers before it cuts them off.
        on_close_timeout: how long `on_close` may still run when its task is being cancelled.
    """

    max_message_size: int = 1024 * 1024
    max_frame_size: int | None = None
    max_fragments: int = 4096
    max_header_size: int = 16 * 1024
    max_headers: int = 100
    handshake_timeout: float = 10
    ping_interval: float | None = 20
    ping_timeout: float = 20
    close_timeout: float = 5
    message_timeout: float = 30
    max_queue: int = 16
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

    def __post_init__(self) -> None:
        for field in fields(self):
            kind, _, optional = str(field.type).partition(" | ")
            value = getattr(self, field.name)
            if kind in _NUMBERS and not (optional and value is None):
                _check_number(f"Options.{field.name}", value, whole=kind == "int", zero=field.default == 0)
        if self.max_outbox < self.high_water:
            raise ConfigurationError("Options.max_outbox must not be smaller than Options.high_water")
        if not isinstance(self.slow_consumer, SlowConsumer):
            raise ConfigurationError(f"Options.slow_consumer must be a SlowConsumer, not {self.slow_consumer!r}")
        if self.deflate is not None and not isinstance(self.deflate, Deflate):
            raise ConfigurationError(f"Options.deflate must be a Deflate or None, not {self.deflate!r}")


def _check_number(name: str, value: object, *, whole: bool, zero: bool) -> None:
    # a bool is an int and a nan is a float, but neither is a limit
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not number or not (value > 0 or (zero and value == 0)):  # type: ignore[operator]
        least = "from 0 on" if zero else "greater than 0"
        raise ConfigurationError(f"{name} must be a {'whole ' if whole else ''}number {least}, not {value!r}")
