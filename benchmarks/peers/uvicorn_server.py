"""uvicorn with an ASGI application without a framework, with an App of pywsapp, or with a site that mounts one.

--ws selects the protocol, --loop the event loop, and --application what runs.
"""

from __future__ import annotations

from typing import Any

import uvicorn
from _common import HOST, MAX_MESSAGE, arguments

args = arguments(
    ("--ws", ["websockets-sansio", "websockets", "wsproto", "pywsapp"]),
    ("--loop", ["uvloop", "asyncio"]),
    ("--application", ["asgi", "pywsapp", "fastapi", "litestar", "django"]),
    tls=True,
)
app: Any
if args.application == "asgi":
    from asgi_app import app
else:
    from pywsapp_components import make_app, site

    app = site(args.application, make_app(args.deflate))
certificate, key = args.tls or (None, None)
uvicorn.run(
    app,
    host=HOST,
    port=args.port,
    ws="pywsapp.asgi.uvicorn:Protocol" if args.ws == "pywsapp" else args.ws,
    loop=args.loop,
    http="httptools",
    ws_per_message_deflate=args.deflate,
    ws_max_size=MAX_MESSAGE,
    access_log=False,
    log_level="warning",
    ssl_certfile=certificate,
    ssl_keyfile=key,
)
