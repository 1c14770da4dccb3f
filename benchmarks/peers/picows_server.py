"""The callback API of picows, on asyncio or with --uvloop on uvloop; it has no permessage-deflate."""

from __future__ import annotations

from _common import BACKLOG, HOST, MAX_MESSAGE, arguments, run, tls_context
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

args = arguments(uvloop=True, tls=True)
chatters: set[WSTransport] = set()


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


class Chat(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        chatters.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        chatters.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            msg_type, message = frame.msg_type, frame.get_payload_as_bytes()
            for other in chatters:
                if other is not transport:
                    other.send(msg_type, message)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


def listener(request: WSUpgradeRequest) -> WSListener:
    return Chat() if request.path == b"/chat" else Echo()


async def main() -> None:
    server = await ws_create_server(
        listener, HOST, args.port, max_frame_size=MAX_MESSAGE, backlog=BACKLOG, ssl=tls_context(args)
    )
    await server.serve_forever()


run(main, args.uvloop)
