"""Signed URLs: what is signed, what is not, and that no other URL is accepted."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wire import get, handshake, peer_of, running

from pywsapp import App, ConfigurationError, InvalidCredentials, MessageComponent, Request
from pywsapp._protocol.http import parse_request
from pywsapp.auth import SignedUrls
from pywsapp.auth.signed_urls import canonical

KEY = "0123456789abcdef"
NOW = 1_767_225_600.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def urls(*keys: str, clock: Any = lambda: NOW) -> SignedUrls:
    return SignedUrls(list(keys) or KEY, clock=clock)


def request_of(url: str) -> Request:
    """Return the request of a URL as the server parses it."""
    head = f"GET {url} HTTP/1.1\r\nHost: localhost".encode()
    return parse_request(head, max_headers=10, scheme="http", remote_address="")


def user_of(signer: SignedUrls, url: str) -> Any:
    found = signer(request_of(url))
    return None if found is None else found.user


def test_a_signed_url_names_the_user() -> None:
    url = urls().sign("/rooms/42?color=red", user="Ana Bär", seconds=60)
    assert url.startswith("/rooms/42?color=red&user=Ana+B%C3%A4r&expires=1767225660&signature=")
    request = request_of(url)
    found = urls()(request)
    assert found is not None
    assert (found.user, found.subject, found.expires_at) == ("Ana Bär", "Ana Bär", None)
    assert "signature" not in request.query_string


def test_a_url_without_a_signature_has_no_user() -> None:
    assert urls()(request_of("/rooms/42?user=ana&expires=9999999999")) is None


def test_the_time_is_checked() -> None:
    clock = Clock()
    signer = urls(clock=clock)
    url = signer.sign("/x", user="ana", seconds=60)
    clock.now += 59.9
    assert user_of(signer, url) == "ana"
    clock.now += 0.1
    with pytest.raises(InvalidCredentials, match="expired"):
        user_of(signer, url)


def test_keys_can_be_replaced() -> None:
    url = urls(KEY).sign("/x", user="ana", seconds=60)
    assert user_of(urls("another key, sixteen", KEY), url) == "ana"
    with pytest.raises(InvalidCredentials, match="not signed correctly"):
        user_of(urls("another key, sixteen"), url)


def test_other_spellings_of_the_same_url_are_accepted() -> None:
    url = urls().sign("/a%20b/~c?x=1&y=%41&x=2", user="ana", seconds=60)
    path, _, query = url.partition("?")
    x1, y, x2, *added = query.split("&")
    for other in (
        f"/a%20b/%7Ec?{query}",
        f"{path}?{'&'.join([*added, y, x1, x2])}",
        f"{path}?{query.replace('%41', 'A')}",
        f"{path}?&{query}&",
    ):
        assert user_of(urls(), other) == "ana", other


SIGNED = urls().sign("/rooms/42?color=red&x=1&x=2", user="ana", seconds=60)


@pytest.mark.parametrize(
    "change",
    [
        ("/rooms/42", "/rooms/43"),
        ("/rooms/42", "/rooms/42/"),
        ("/rooms/42", "//rooms/42"),
        ("red", "blue"),
        ("color=red", ""),
        ("color=red", "colorr=ed"),
        ("color=red", "color=red&color=red"),
        ("color=red", "color=red&admin"),
        ("x=1&x=2", "x=2&x=1"),
        ("user=ana", "user=bob"),
        ("user=ana", "user=bob&user=ana"),
        ("user=ana", "user=ana&user=ana"),
        ("user=ana", "user=ana&%75ser=bob"),
        ("expires=1767225660", "expires=9767225660"),
        ("expires=1767225660", "expires="),
        ("expires=1767225660", "expires=1767225660&expires=1767225660"),
        ("&expires=1767225660", ""),
        ("signature=", "signature=x&signature="),
        ("signature=", "signature=%FF"),
        ("signature=", "signature=%C3%BC"),
        ("signature=", "signature=" + "A" * 8000),
        ("color=red", "color=red" + "&" * 100),
    ],
)
def test_no_other_url_is_accepted(change: tuple[str, str]) -> None:
    changed = SIGNED.replace(*change)
    assert changed != SIGNED
    with pytest.raises(InvalidCredentials) as caught:
        urls()(request_of(changed))
    assert caught.value.status == 401


def test_every_character_of_a_signature_counts() -> None:
    head, _, signature = SIGNED.rpartition("=")
    for number, character in enumerate(signature[:-1]):
        other = "A" if character != "A" else "B"
        with pytest.raises(InvalidCredentials):
            urls()(request_of(f"{head}={signature[:number]}{other}{signature[number + 1 :]}"))


names = st.text("ab&=%+ é", min_size=1, max_size=4).filter(lambda name: name not in ("user", "expires", "signature"))
pairs = st.lists(st.tuples(names, st.text("01&=%+ é\n:", max_size=4)), max_size=5)
paths = st.lists(st.text("ab %?#é:", min_size=1, max_size=4), max_size=3).map(lambda parts: "/" + "/".join(parts))


def written(path: str, query: list[tuple[str, str]]) -> str:
    encoded = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in query)
    return quote(path) + (f"?{encoded}" if encoded else "")


@given(paths, pairs, st.text(min_size=1, max_size=20).filter(str.isprintable))
def test_every_url_can_be_signed(path: str, query: list[tuple[str, str]], user: str) -> None:
    assert user_of(urls(), urls().sign(written(path, query), user=user, seconds=1)) == user


@given(paths, pairs, paths, pairs)
def test_different_urls_have_different_canonical_forms(
    path: str, query: list[tuple[str, str]], other_path: str, other_query: list[tuple[str, str]]
) -> None:
    def form(path: str, query: list[tuple[str, str]]) -> bytes:
        return canonical(path.encode(), written("", query)[1:])

    def meaning(path: str, query: list[tuple[str, str]]) -> Any:
        return path, sorted(query, key=lambda pair: pair[0].encode())

    same = meaning(path, query) == meaning(other_path, other_query)
    assert (form(path, query) == form(other_path, other_query)) == same


@given(st.text("/?&=%abc0123456789signatureuserexpires_-é", max_size=60))
def test_no_url_raises_anything_else(text: str) -> None:
    path, _, query = text.partition("?")
    with suppress(InvalidCredentials):
        assert urls()(Request(path="/" + path, query_string=query)) is None


@pytest.mark.anyio
async def test_a_signed_url_opens_one_path_below_a_mount() -> None:
    signer = SignedUrls(KEY)
    inner = App()
    inner.route("/rooms/{number:int}", MessageComponent())
    inner.http("/page", lambda request: f"{request.user} {request.query_string}")
    app = App("*", 0)
    app.mount("/in", inner, authenticate=signer)
    async with running(app):
        for path, expected in {"/in/rooms/42": 101, "/in/rooms/43": 401, "/rooms/42": 401}.items():
            async with peer_of(app) as peer:
                url = signer.sign("/in/rooms/42" if expected == 101 else "/rooms/42", user="ana", seconds=60)
                await peer.send(handshake(url.replace(url.partition("?")[0], path)))
                assert (await peer.head())[0] == (404 if path == "/rooms/42" else expected)
        async with peer_of(app) as peer:
            await peer.send(get(signer.sign("/in/page?a=1", user="ana", seconds=60)))
            assert (await peer.response()).body.startswith(b"ana a=1&user=ana&expires=")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rooms", "takes a path"),
        ("http://localhost/rooms", "takes a path"),
        ("//localhost/rooms", "takes a path"),
        ("/rooms#top", "takes a path"),
        ("/räume", "percent-encoded"),
        ("/rooms?user=bob", "a parameter 'user' of its own"),
        ("/rooms?%65xpires=1", "a parameter 'expires' of its own"),
        ("/rooms?a=" + "b" * 8192, "too long"),
        ("/rooms?" + "a&" * 100, "too long"),
    ],
)
def test_what_cannot_be_signed(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        urls().sign(url, user="ana", seconds=60)


def test_other_mistakes() -> None:
    for arguments in {"user": "", "seconds": 60}, {"user": 7, "seconds": 60}, {"user": "ana", "seconds": 0}:
        with pytest.raises(ConfigurationError):
            urls().sign("/x", **arguments)
    for keys in "short", [], [KEY, "short"], [7]:
        with pytest.raises(ConfigurationError, match="16 bytes"):
            SignedUrls(keys)  # type: ignore[arg-type]
    assert KEY not in repr(urls())
