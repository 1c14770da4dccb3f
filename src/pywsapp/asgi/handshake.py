"""The handshake of a server that passes whole request heads on: checked as on the own server, and as an ASGI scope."""

from __future__ import annotations

from typing import Any

from pywsapp._protocol.handshake import check_upgrade
from pywsapp._protocol.http import HeadBuffer, parse_request
from pywsapp.asgi.scope import Scope
from pywsapp.exceptions import Refuse
from pywsapp.http import Request
from pywsapp.options import Options


def read_handshake(
    data: bytes,
    options: Options,
    *,
    root_path: str,
    client: tuple[str, int] | None,
    server: tuple[str, int | None] | None,
    over_tls: bool,
    extensions: dict[str, Any],
) -> tuple[Request, Scope]:
    """Return the request of a handshake, and its scope without the keys `asgi` and `state`.

    Args:
        data: the whole head.
        options: its limits.
        root_path: the path that the site is mounted at.
        client: the address and port of the client; None on a Unix socket.
        server: the address and port of the server, or the path of a Unix socket.
        over_tls: whether the connection uses TLS.
        extensions: what else the server can do.

    Raises:
        Refuse: the request is malformed, too large, or no valid handshake.
    """
    head = HeadBuffer(options.max_header_size).receive(data)
    if head is None:
        raise Refuse(400, body="the head of the request is not complete")
    scheme, address = "https" if over_tls else "http", client[0] if client else ""
    request = parse_request(head, max_headers=options.max_headers, scheme=scheme, remote_address=address)
    check_upgrade(request)
    raw_path, _, query = head.split(b" ", 2)[1].partition(b"?")
    scope: Scope = {
        "type": "websocket",
        "http_version": "1.1",
        "scheme": "wss" if over_tls else "ws",
        "server": server,
        "client": client,
        "root_path": root_path,
        "path": root_path + request.path,
        "raw_path": root_path.encode("ascii") + raw_path,
        "query_string": query,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in request.headers.multi_items()],
        "subprotocols": list(request.subprotocols),
        "extensions": extensions,
    }
    return request, scope
