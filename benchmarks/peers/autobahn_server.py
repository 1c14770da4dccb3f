"""autobahn; --backend selects asyncio, uvloop or Twisted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from _common import BACKLOG, HOST, MAX_MESSAGE, arguments, run

args = arguments(("--backend", ["asyncio", "uvloop", "twisted"]))
if args.backend == "twisted":
    import txaio

    txaio.use_twisted()
    from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
else:
    from autobahn.asyncio.websocket import WebSocketServerFactory, WebSocketServerProtocol

# These imports need the selected framework.
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept  # noqa: E402

chatters: set[Any] = set()


class Server(WebSocketServerProtocol):
    # The setting of the factory comes too late for the transport of Twisted. Nagle's algorithm would stay on and
    # delay some messages by 40 ms.
    tcpNoDelay = True  # noqa: N815 - autobahn's name

    def onConnect(self, request: Any) -> None:  # noqa: N802 - autobahn's name
        self.chat = request.path == "/chat"

    def onOpen(self) -> None:  # noqa: N802 - autobahn's name
        if self.chat:
            chatters.add(self)

    def onClose(self, was_clean: bool, code: int, reason: str) -> None:  # noqa: N802 - autobahn's name
        chatters.discard(self)

    def onMessage(self, payload: bytes, is_binary: bool) -> None:  # noqa: N802 - autobahn's name
        if not self.chat:
            self.sendMessage(payload, is_binary)
            return
        message = self.factory.prepareMessage(payload, is_binary)
        for other in chatters:
            if other is not self:
                other.sendPreparedMessage(message)


def accept(offers: Iterable[Any]) -> PerMessageDeflateOfferAccept | None:
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


def make_factory() -> WebSocketServerFactory:
    factory = WebSocketServerFactory(f"ws://{HOST}:{args.port}")
    factory.protocol = Server
    factory.setProtocolOptions(maxMessagePayloadSize=MAX_MESSAGE, maxFramePayloadSize=MAX_MESSAGE)
    if args.deflate:
        factory.setProtocolOptions(perMessageCompressionAccept=accept)
    return factory


async def main() -> None:
    loop = asyncio.get_running_loop()
    factory = make_factory()
    factory.loop = loop
    server = await loop.create_server(factory, HOST, args.port, backlog=BACKLOG)
    await server.serve_forever()


if args.backend == "twisted":
    from twisted.internet import reactor

    reactor.listenTCP(args.port, make_factory(), backlog=BACKLOG, interface=HOST)
    reactor.run()
else:
    run(main, args.backend == "uvloop")
