"""Any URL is refused, has no signature, or means the same as one that this program has signed."""

from __future__ import annotations

from urllib.parse import parse_qsl

from harness import fuzz, instrumented

with instrumented():
    from pywsapp._protocol.http import parse_request
    from pywsapp.auth.signed_urls import SignedUrls
    from pywsapp.exceptions import InvalidCredentials, Refuse
    from pywsapp.http import Request

NOW = 1_767_225_600.0
URLS = SignedUrls("a key of the fuzz target", clock=lambda: NOW)
PLAIN = ["/", "/rooms/42", "/rooms/42?color=red", "/a%20b/%C3%A9?x=1&x=2&y=%26%3D", "/a?b&c=&%2B=+", "/a//b?a=%FF"]
SIGNED = [URLS.sign(url, user=user, seconds=60) for url in PLAIN for user in ("ana", "Bär & Söhne")]


def request_of(url: bytes) -> Request:
    head = b"GET " + url + b" HTTP/1.1\r\nHost: localhost"
    return parse_request(head, max_headers=2, scheme="http", remote_address="")


def meaning(request: Request) -> tuple[str, list[tuple[str, str]]]:
    """Return what a program sees of a URL: parameters of one name keep their order."""
    pairs = parse_qsl(request.query_string, keep_blank_values=True, encoding="latin-1")
    return request.path, sorted([pair for pair in pairs if pair[0] != "signature"], key=lambda pair: pair[0])


ALLOWED = [meaning(request_of(url.encode())) for url in SIGNED]


def one_input(data: bytes) -> None:
    """Run one input: the target of a request."""
    try:
        request = request_of(data)
    except Refuse:
        return
    before = meaning(request)
    try:
        found = URLS(request)
    except InvalidCredentials:
        return
    if found is None:
        assert "signature" not in request.query_params
        return
    assert before in ALLOWED, "a URL that this program has not signed is accepted"
    assert found.user in ("ana", "Bär & Söhne")
    assert "signature" not in request.query_params


def seeds() -> list[bytes]:
    return [url.encode() for url in (*SIGNED, *PLAIN)]


if __name__ == "__main__":
    fuzz(one_input, seeds())
