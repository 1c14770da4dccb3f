"""Any Host is read as a browser reads it or refused; any Origin is allowed only if its host is one of those allowed.

The comparison is with Python's own parser of URLs, which knows nothing of our rules.
"""

from __future__ import annotations

import logging
from urllib.parse import SplitResult, urlsplit

from harness import check_status, fuzz, instrumented

with instrumented():
    from pywsapp._protocol.http import parse_request
    from pywsapp.component import MessageComponent
    from pywsapp.exceptions import ConfigurationError, Refuse
    from pywsapp.http import Request
    from pywsapp.middleware.origin import AllowedOrigins, OriginCheck
    from pywsapp.routing.host_pattern import HostPattern

logging.getLogger("pywsapp").setLevel(logging.WARNING)  # a refusal is logged as information

LOCAL = {"localhost", "127.0.0.1", "::1"}
SAME = OriginCheck(MessageComponent())
ONE = OriginCheck(MessageComponent(), ["https://example.com"])
BELOW = OriginCheck(MessageComponent(), ["https://*.example.com:8443"])
ANY_SCHEME = OriginCheck(MessageComponent(), ["example.com"])
HOST, HOSTS_BELOW, HOST_OR_ADDRESS = (
    HostPattern("example.com"),
    HostPattern("*.example.com"),
    HostPattern("localhost", or_address=True),
)
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def request_of(host: bytes, origin: bytes) -> Request | None:
    head = b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nOrigin: " + origin
    try:
        return parse_request(head, max_headers=4, scheme="http", remote_address="")
    except Refuse as exc:
        check_status(exc, 400, 431)
        return None


def is_allowed(check: OriginCheck, request: Request) -> bool:
    try:
        check.check(request)
    except Refuse as exc:
        check_status(exc, 403)
        return False
    return True


def check_host(request: Request) -> None:
    host, sent = request.host, request.headers.get("host", "")
    assert host == host.lower()
    assert not set(host) & set(" \t/@?#[],;\\%")
    parts = urlsplit(f"//{sent}")
    assert (parts.hostname or "").rstrip(".") == host.rstrip(".")
    assert parts.port == request.port
    assert HOST.match(host) == (host == "example.com")
    assert HOSTS_BELOW.match(host) == (host.endswith(".example.com") and len(host) > len(".example.com"))
    if HOST_OR_ADDRESS.match(host):
        assert host in LOCAL or not host.strip("0123456789abcdef:.")


def check_origin(request: Request) -> None:
    origin = request.headers.get("origin", "")
    checks = {check: is_allowed(check, request) for check in (SAME, ONE, BELOW, ANY_SCHEME)}
    if not any(checks.values()):
        return
    if not origin:  # a client that is no browser
        assert "origin" not in request.headers or checks
    parts = urlsplit(origin)
    host, port = parts.hostname or "", port_of(parts)
    assert (parts.path, parts.query, parts.fragment, parts.username) == ("", "", "", None), "it is no origin"
    if checks[SAME]:
        assert parts.scheme in ("http", "https")
        assert host == request.host or {host, request.host} <= LOCAL
        assert port == (request.port or DEFAULT_PORTS[parts.scheme])
    if checks[ONE]:
        assert (parts.scheme, host, port) == ("https", "example.com", 443)
    if checks[BELOW]:
        assert (parts.scheme, port) == ("https", 8443)
        assert host.endswith(".example.com")
        assert host != ".example.com"
    if checks[ANY_SCHEME]:
        assert host == "example.com"


def port_of(parts: SplitResult) -> int | None:
    return parts.port or DEFAULT_PORTS.get(parts.scheme)


def check_entry(text: str) -> None:
    """Check that an entry is refused or matches its own origin, and no other host."""
    try:
        allowed = AllowedOrigins([text])
    except ConfigurationError:
        return
    assert list(allowed) == [text]
    if "*" not in text:
        assert not is_allowed(OriginCheck(MessageComponent(), allowed), Request(headers=[("Origin", "https://evil.x")]))


def one_input(data: bytes) -> None:
    """Run one input: a Host, a line feed, and an Origin."""
    host, _, origin = data.partition(b"\n")
    check_entry(origin.decode("latin-1"))
    request = request_of(host, origin)
    if request is None:
        return
    check_host(request)
    if origin.strip(b" \t"):
        check_origin(request)


def seeds() -> list[bytes]:
    return [
        b"example.com\nhttps://example.com",
        b"example.com:8080\nhttp://example.com:8080",
        b"EXAMPLE.com\nHTTPS://EXAMPLE.COM:443",
        b"localhost:80\nhttp://127.0.0.1",
        b"[::1]:8080\nhttp://[::1]:8080",
        b"a.example.com\nhttps://a.example.com:8443",
        b"x\nhttps://example.com.evil.example",
        b"x\nhttps://example.com@evil.example",
        b"x\nhttps://evil.example/.example.com:8443",
        b"x\nhttps://evilexample.com",
        b"x\nhttps://.example.com:8443",
        b"x\nnull",
        b"x:99999\nhttps://x:99999",
        b"example.com.\nhttps://example.com.",
        b"x:\nhttps://x:0443",
        b"1.2.3.4\nhttps://*.example.com",
        b"\nhttps://example.com, https://evil.example",
        b"fe80::1%eth0\nhttps://[fe80::1%eth0]",
        "x\nhttps://example.\N{KELVIN SIGN}om".encode(),
    ]


if __name__ == "__main__":
    fuzz(one_input, seeds())
