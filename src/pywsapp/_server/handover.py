"""Handing a connection over: an answer to a plain request that takes over its transport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pywsapp.http import Response

if TYPE_CHECKING:
    from pywsapp._protocol.proxy_protocol import ProxyHeader
    from pywsapp._server.server import Server
    from pywsapp._transports.base import Transport
    from pywsapp.http import Request


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A connection whose next request is read up to the end of its head.

    Args:
        server: the server of the connection. It has admitted the request.
        request: the request.
        transport: the transport.
        peername: the extra info of the transport of this name.
        header: the PROXY header of the connection, or None.
        head: the head as it was received, without its final CRLFCRLF.
        rest: what was received behind the head.
    """

    server: Server
    request: Request
    transport: Transport
    peername: Any
    header: ProxyHeader | None
    head: bytes
    rest: bytes


class Handover(Response):
    """An answer to a plain request that takes over its transport; for the own server only.

    A component returns it from a `def` without a guard. In other places it is a response with status 501.

    Args:
        take: becomes the protocol of the transport, and one of the connections of the runtime. It may raise `Refuse`
            before that.
    """

    __slots__ = ("take",)

    def __init__(self, take: Callable[[HandedOver], None]) -> None:
        super().__init__("this server cannot answer the request", 501)
        self.take = take
