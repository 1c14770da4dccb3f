"""The interface between transports, which move bytes, and protocols, which interpret them.

It is asyncio's own pair of Transport and Protocol, reduced to the methods that the library uses. asyncio and uvloop
therefore need no adapter: their transports already are a `Transport`, and a `TransportProtocol` is passed to them as
the protocol. `pywsapp._transports.socket` and `pywsapp._transports.tls` provide the same on trio.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol


class Transport(Protocol):
    """A transport; its methods have the meaning of those of `asyncio.Transport`."""

    def write(self, data: bytes) -> None:
        """Send bytes, and queue what cannot be sent at once. Never blocks; does nothing after close."""

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Send several pieces as if they were one."""

    def close(self) -> None:
        """Stop reading, send what is queued, then close; `connection_lost` follows."""

    def abort(self) -> None:
        """Drop what is queued and close at once; `connection_lost` follows after this call has returned."""

    def is_closing(self) -> bool:
        """Return whether close or abort was called, or the connection was lost."""

    def pause_reading(self) -> None:
        """Stop calling `data_received` until `resume_reading`."""

    def resume_reading(self) -> None:
        """Continue calling `data_received`."""

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that are queued in user space."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the numbers of queued bytes above which `pause_writing` and below which `resume_writing` is called."""

    def set_protocol(self, protocol: Any) -> None:
        """Send the events of this transport to another protocol from now on."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the `"peername"`, `"sockname"`, `"socket"` or `"ssl_object"`."""


class TransportProtocol(Protocol):
    """The receiver of a transport's events. All methods are called in the thread of the event loop, and never raise."""

    def connection_made(self, transport: Any) -> None:
        """Handle the start of the connection; the first call, and made once."""

    def data_received(self, data: bytes) -> None:
        """Handle bytes of the peer, at least one."""

    def eof_received(self) -> bool | None:
        """Handle the end of the peer's stream; the transport closes itself unless the result is true."""

    def pause_writing(self) -> None:
        """Stop writing: more bytes than the high limit are queued."""

    def resume_writing(self) -> None:
        """Continue writing: at most as many bytes as the low limit are queued."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the loss of the transport; the last call, made once, also after `close` and `abort`."""


class _NoProtocol:
    """Ignores all events."""

    def connection_made(self, transport: Any) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


#: The protocol of a transport without events, or before its connection is accepted.
NO_PROTOCOL: TransportProtocol = _NoProtocol()
