"""The seam between what moves bytes and what understands them.

It is asyncio's own pair of Transport and Protocol, reduced to what is used, so that asyncio and uvloop need no
adapter: their transports already are a `Transport`, and a `TransportProtocol` is handed to them as the protocol. On
trio, and for any anyio ByteStream, `hosting.sockets` and `hosting.streams` provide the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol


class Transport(Protocol):
    """What moves bytes; the methods mean what they mean in `asyncio.Transport`."""

    def write(self, data: bytes) -> None:
        """Send bytes, or queue what cannot be sent at once; never blocks, silent after close."""

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Send several pieces as one."""

    def close(self) -> None:
        """Send what is queued, then close; `connection_lost` follows."""

    def abort(self) -> None:
        """Close at once and drop what is queued; `connection_lost` follows, not from inside this call."""

    def is_closing(self) -> bool:
        """Tell whether close or abort was called or the connection was lost."""

    def pause_reading(self) -> None:
        """Let no more `data_received` happen until `resume_reading`."""

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""

    def get_write_buffer_size(self) -> int:
        """Give the number of bytes that are queued in user space."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set above how many queued bytes `pause_writing` is called, and below how many `resume_writing`."""

    def set_protocol(self, protocol: Any) -> None:
        """Hand the events of this transport to another link from now on."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Give `"peername"`, `"sockname"`, `"socket"` or `"ssl_object"`."""


class TransportProtocol(Protocol):
    """What takes the events of a transport; all are called in the loop's thread and never raise."""

    def connection_made(self, transport: Any) -> None:
        """Take the transport; called once, first."""

    def data_received(self, data: bytes) -> None:
        """Take bytes; never empty."""

    def eof_received(self) -> bool | None:
        """Take the peer's end of stream; after a falsy result the transport closes itself."""

    def pause_writing(self) -> None:
        """Learn that more than the high limit is queued."""

    def resume_writing(self) -> None:
        """Learn that less than the low limit is queued."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the transport is gone; called once, last, also after `close` and `abort`."""
