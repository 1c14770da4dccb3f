"""hypercorn with an ASGI application without a framework, or an App of pywsapp (--application).

--worker selects the event loop. It accepts permessage-deflate always if the client offers it, so --deflate has no
effect.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from _common import BACKLOG, HOST, MAX_MESSAGE, arguments, run
from hypercorn.config import Config

args = arguments(("--worker", ["asyncio", "uvloop", "trio"]), ("--application", ["asgi", "pywsapp"]))
app: Any
if args.application == "asgi":
    from asgi_app import app
else:
    from pywsapp_components import app
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
