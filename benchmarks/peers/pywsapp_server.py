"""pywsapp; --loop selects the event loop, and --handler a def or an async def."""

from __future__ import annotations

from _common import HOST, arguments
from pywsapp_components import AsyncEcho, Echo, options, route

from pywsapp import App

args = arguments(("--loop", ["uvloop", "asyncio", "trio"]), ("--handler", ["def", "async"]), tls=True)
app = App(
    "localhost",
    args.port,
    HOST,
    options=options(args.deflate),
    tls=tuple(args.tls) if args.tls else None,
)
route(app, Echo() if args.handler == "def" else AsyncEcho())
if args.loop == "trio":
    app.run(backend="trio")
else:
    app.run(uvloop=args.loop == "uvloop")
