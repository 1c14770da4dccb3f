"""One read buffer for all TLS connections of an asyncio event loop, instead of 256 KiB for each.

asyncio's SSLProtocol creates a buffer for each connection and keeps it. A selector loop asks for the buffer, receives
into it and hands the bytes to OpenSSL in one call, so no two connections use their buffers at the same time. They hold
encrypted bytes only. The proactor loop of Windows receives in the background, and uvloop has a protocol of its own:
these keep their buffers. So does every version of Python whose implementation was not read and tested; 3.10 has none.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import selector_events, sslproto
from typing import Any
from weakref import WeakKeyDictionary

_IS_KNOWN = (3, 11) <= sys.version_info < (3, 14)

_views: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def share_read_buffer(transport: Any) -> bool:
    """Make a TLS transport of asyncio use the read buffer of its event loop; return whether it does.

    Any other transport is left as it is. Call it in the thread of the event loop, after the TLS handshake.

    Args:
        transport: the transport.
    """
    protocol: Any = getattr(transport, "_ssl_protocol", None)
    kind = type(protocol)
    if not _IS_KNOWN or kind is not sslproto.SSLProtocol:
        return False
    own, view = getattr(protocol, "_ssl_buffer", None), getattr(protocol, "_ssl_buffer_view", None)
    raw = getattr(protocol, "_transport", None)  # None if the connection is lost already
    is_usual = (
        type(raw) is getattr(selector_events, "_SelectorSocketTransport", None)
        and type(own) is bytearray
        and type(view) is memoryview
        and view.obj is own
        and len(own) == getattr(protocol, "max_size", None)
    )
    if not is_usual:
        return False
    loop = asyncio.get_running_loop()
    shared = _views.get(loop)
    if shared is None or len(shared) != protocol.max_size:
        shared = _views[loop] = memoryview(bytearray(protocol.max_size))
    protocol._ssl_buffer, protocol._ssl_buffer_view = shared.obj, shared
    return True
