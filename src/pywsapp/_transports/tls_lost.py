"""The TLS transports of asyncio in Python 3.10, in the turn of the event loop between a loss and `connection_lost`.

asyncio's SSLProtocol forgets the inner transport when the connection is lost, and calls `connection_lost` one turn
later. In that turn, and after it, the methods of Python 3.10 that pass a call on to the inner transport raise
AttributeError. Those of later versions do not, and neither do those of uvloop.
"""

from __future__ import annotations

import sys
from asyncio import sslproto
from typing import TYPE_CHECKING, Any

_Base: Any = object if TYPE_CHECKING else getattr(sslproto, "_SSLProtocolTransport", object)


class LossyTransport(_Base):  # type: ignore[misc] # later versions have another class
    """The transport of Python 3.10, whose methods do nothing when the connection is lost."""

    def pause_reading(self) -> None:
        if self._ssl_protocol._transport is not None:
            super().pause_reading()

    def resume_reading(self) -> None:
        if self._ssl_protocol._transport is not None:
            super().resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._ssl_protocol._transport is not None:
            super().set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return 0 if self._ssl_protocol._transport is None else int(super().get_write_buffer_size())


def survive_loss(transport: Any) -> None:
    """Make a TLS transport of Python 3.10 accept calls when its connection is lost; no other transport is changed."""
    if sys.version_info < (3, 11) and type(transport) is _Base:
        transport.__class__ = LossyTransport
