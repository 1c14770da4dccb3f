"""uvicorn with an ASGI application without a framework; --ws selects the protocol, and --loop the event loop."""

from __future__ import annotations

import uvicorn
from _common import HOST, MAX_MESSAGE, arguments
from asgi_app import app

args = arguments(("--ws", ["websockets-sansio", "websockets", "wsproto"]), ("--loop", ["uvloop", "asyncio"]), tls=True)
certificate, key = args.tls or (None, None)
uvicorn.run(
    app,
    host=HOST,
    port=args.port,
    ws=args.ws,
    loop=args.loop,
    http="httptools",
    ws_per_message_deflate=args.deflate,
    ws_max_size=MAX_MESSAGE,
    access_log=False,
    log_level="warning",
    ssl_certfile=certificate,
    ssl_keyfile=key,
)
