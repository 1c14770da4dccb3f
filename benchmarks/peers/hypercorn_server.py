"""hypercorn with an ASGI application without a framework; --worker selects the event loop.

It accepts permessage-deflate always if the client offers it, so --deflate has no effect.
"""

from __future__ import annotations

from functools import partial

from _common import BACKLOG, HOST, MAX_MESSAGE, arguments, run
from asgi_app import app
from hypercorn.config import Config

args = arguments(("--worker", ["asyncio", "uvloop", "trio"]))
config = Config()
config.bind = [f"{HOST}:{args.port}"]
config.backlog = BACKLOG
config.loglevel = "WARNING"
config.websocket_max_message_size = MAX_MESSAGE

if args.worker == "trio":
    import trio
    from hypercorn.trio import serve

    trio.run(partial(serve, app, config, mode="asgi"))
else:
    from hypercorn.asyncio import serve

    run(partial(serve, app, config, mode="asgi"), args.worker == "uvloop")
