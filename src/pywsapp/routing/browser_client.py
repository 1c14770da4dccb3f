"""The browser client over plain HTTP: the JavaScript files of the package, and their types.

The files are those of the directory `browser`, which is also an npm package. They contain nothing secret, so they need
no user, and a page before a login can load them. Other origins get no permission to read them (CORS).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pywsapp.auth.identity import public
from pywsapp.exceptions import ConfigurationError
from pywsapp.http import Request, Response
from pywsapp.routing.router import Router
from pywsapp.routing.static import is_one_of

DIRECTORY = Path(__file__).parent.parent / "browser"
_MAIN = "pywsapp.js"
_TYPES = {".js": "text/javascript; charset=utf-8", ".ts": "text/plain; charset=utf-8"}  # no browser loads a .d.ts


def add_browser_client(router: Router, path: str) -> None:
    """Route `pywsapp.js` at a path, and the other files of the client beside it, because they import each other.

    Args:
        router: gets the routes.
        path: the path of `pywsapp.js`.

    Raises:
        ConfigurationError: the path does not end with `/pywsapp.js`, has parameters, or a route exists.
    """
    if not path.endswith(f"/{_MAIN}") or "{" in path:
        raise ConfigurationError(f"the path of the browser client ends with '/{_MAIN}' and has no parameters: {path!r}")
    for file in sorted(DIRECTORY.iterdir()):
        if file.suffix in _TYPES:
            handler = _handler(file.read_bytes(), _TYPES[file.suffix])
            router.http(path.removesuffix(_MAIN) + file.name, handler, authenticate=public)


def _handler(content: bytes, content_type: str) -> Callable[[Request], Response]:
    """Return a handler that sends a file, or status 304 to a browser that has it."""
    tag = hashlib.sha256(content).hexdigest()[:32]
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    whole = Response(content, headers=headers, content_type=content_type)
    unchanged = Response(status=304, headers=headers)

    def send(request: Request) -> Response:
        return unchanged if is_one_of(tag, request) else whole

    send.__qualname__ = "route_client"  # in the log, and in `pywsapp routes`
    return send
