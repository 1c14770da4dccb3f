"""granian with an ASGI application without a framework, or an App of pywsapp (--application).

It has no permessage-deflate.
"""

from __future__ import annotations

from _common import BACKLOG, HOST, arguments
from granian import Granian
from granian.constants import Interfaces, Loops
from granian.log import LogLevels

if __name__ == "__main__":
    args = arguments(("--loop", ["uvloop", "asyncio"]), ("--application", ["asgi", "pywsapp"]))
    Granian(
        "asgi_app:app" if args.application == "asgi" else "pywsapp_components:app",
        address=HOST,
        port=args.port,
        interface=Interfaces.ASGI,
        loop=Loops(args.loop),
        workers=1,
        runtime_threads=1,
        backlog=BACKLOG,
        backpressure=1 << 15,  # an open WebSocket counts as a request in progress
        log_level=LogLevels.warning,
        log_access=False,
    ).serve()
