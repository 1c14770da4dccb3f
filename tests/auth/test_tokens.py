"""Where a token is found: a header field, a subprotocol, the query; and the authenticator that checks it."""

from __future__ import annotations

import hmac
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wire import get, handshake, peer_of, running

from pywsapp import App, ConfigurationError, Connection, InvalidCredentials, MessageComponent, Refuse, Request
from pywsapp.auth import (
    BearerHeader,
    BearerSubprotocol,
    HeaderToken,
    QueryToken,
    TokenAuthenticator,
    TokenSource,
    first_of,
    public,
)
from pywsapp.auth.tokens import MAX_TOKEN

SECRET = "s3cret-token.with~all+kinds/of-characters=="
PLAIN = "s3cret.token-for_a~subprotocol"


def verify(token: str) -> str | None:
    return "ana" if hmac.compare_digest(token.encode(), PLAIN.encode()) else None


async def verify_later(token: str) -> str | None:
    await anyio.lowlevel.checkpoint()
    return verify(token)


def bearer(*values: str) -> Request:
    return Request(headers=[("Authorization", value) for value in values])


@pytest.mark.parametrize("value", [f"Bearer {SECRET}", f"bearer {SECRET}", f"BEARER   {SECRET} "])
def test_a_token_in_the_authorization_field(value: str) -> None:
    assert BearerHeader().take(bearer(value)) == SECRET


@pytest.mark.parametrize(
    "request_", [Request(), bearer("Basic YTpi"), bearer(""), bearer("BearerX x"), bearer("Digest")]
)
def test_no_token_in_the_authorization_field(request_: Request) -> None:
    assert BearerHeader().take(request_) is None


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer a b", "Bearer é", "Bearer =", "Bearer " + "a" * 8193])
def test_a_malformed_authorization_field(value: str) -> None:
    with pytest.raises(InvalidCredentials) as caught:
        BearerHeader().take(bearer(value))
    assert caught.value.headers == (("WWW-Authenticate", "Bearer"),)


def test_the_longest_token() -> None:
    assert BearerHeader().take(bearer("Bearer " + "a" * MAX_TOKEN)) == "a" * MAX_TOKEN


def test_two_authorization_fields() -> None:
    with pytest.raises(Refuse) as caught:
        BearerHeader().take(bearer("Bearer a", "Bearer a"))
    assert caught.value.status == 400


def test_a_token_in_a_field_of_another_name() -> None:
    source = HeaderToken("X-Secret")
    request = Request(headers=[("x-secret", SECRET)])
    assert source.take(request) == SECRET
    assert source.take(Request()) is None
    assert SECRET not in repr(request.headers)
    with pytest.raises(Refuse, match="400"):
        source.take(Request(headers=[("x-secret", "a"), ("x-secret", "a")]))


def test_a_token_in_a_subprotocol_is_removed() -> None:
    request = Request(subprotocols=("chat", "bearer", f"bearer.{PLAIN}"))
    assert BearerSubprotocol().take(request) == PLAIN
    assert request.subprotocols == ("chat", "bearer")
    assert BearerSubprotocol().take(request) is None
    assert BearerSubprotocol("jwt").take(Request(subprotocols=("jwt.a",))) == "a"
    assert BearerSubprotocol().take(Request(subprotocols=("bearer", "bearerX.a"))) is None


@pytest.mark.parametrize("names", [("bearer.a", "bearer.b"), ("bearer.",), ("bearer.*",)])
def test_a_bad_token_in_a_subprotocol_is_removed_too(names: tuple[str, ...]) -> None:
    request = Request(subprotocols=("chat", *names))
    with pytest.raises(Refuse):
        BearerSubprotocol().take(request)
    assert request.subprotocols == ("chat",)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("token=abc", ""),
        ("a=1&token=abc&b=%20", "a=1&b=%20"),
        ("%74oken=abc&a", "a"),
        ("token=%61bc&&a=+", "&a=+"),
    ],
)
def test_a_token_in_the_query_is_removed(query: str, left: str) -> None:
    request = Request(query_string=query)
    assert QueryToken().take(request) == "abc"
    assert (request.query_string, "token" in request.query_params) == (left, False)
    assert QueryToken().take(request) is None


@pytest.mark.parametrize(
    "query", ["token=a&token=a", "token=", "token", "token=%FF", "token=a+b", "token=" + "a" * 8193]
)
def test_a_bad_token_in_the_query_is_removed_too(query: str) -> None:
    request = Request(query_string=f"a=1&{query}")
    with pytest.raises(Refuse):
        QueryToken().take(request)
    assert request.query_string == "a=1"


query_texts = st.text("tokenabc=&%+;123 é", max_size=30)


@given(query_texts)
def test_nothing_of_a_parameter_is_left_and_nothing_else_is_lost(query: str) -> None:
    request = Request(query_string=query)
    with suppress(Refuse):
        QueryToken().take(request)
    before = parse_qsl(query, keep_blank_values=True, errors="replace")
    after = parse_qsl(request.query_string, keep_blank_values=True, errors="replace")
    assert after == [pair for pair in before if pair[0] != "token"]


@given(st.text(max_size=40), st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=5)), max_size=4))
def test_every_token_comes_out_as_it_went_in_or_is_refused(token: str, others: list[tuple[str, str]]) -> None:
    query = "&".join([*(f"{name}={quote(value)}" for name, value in others), f"token={quote(token, safe='')}"])
    request = Request(query_string=query)
    with suppress(InvalidCredentials):
        assert QueryToken().take(request) == token
    assert list(request.query_params) == list(dict.fromkeys(name for name, _ in others))


# -- the authenticator -------------------------------------------------------------------------------------------------


class Greeting(MessageComponent):
    subprotocols = ("chat.v1",)

    def on_open(self, conn: Connection) -> None:
        conn.send(f"{conn.user} {conn.subprotocol} {conn.request.subprotocols} {conn.request.query_string}")


ALL: tuple[TokenSource, ...] = (BearerHeader(), BearerSubprotocol(), QueryToken())


@pytest.mark.anyio
@pytest.mark.parametrize("check", [verify, verify_later])
async def test_a_browser_gets_a_subprotocol_back_and_never_its_token(check: Any) -> None:
    app = App("*", 0, authenticate=TokenAuthenticator(check, *ALL))
    app.route("/x", Greeting())
    inner = App()
    inner.route("/x", Greeting())
    app.mount("/in", inner)
    offers: dict[str, str | None] = {
        f"chat.v1, bearer, bearer.{PLAIN}": "chat.v1",
        f"bearer.{PLAIN}, bearer": "bearer",
        f"bearer, other, bearer.{PLAIN}": "bearer",
        f"bearer.{PLAIN}": None,
    }
    async with running(app):
        for path in "/x", "/in/x":
            for offered, chosen in offers.items():
                async with peer_of(app) as peer:
                    fields = await peer.open(path, sec_websocket_protocol=offered)
                    assert fields.get("sec-websocket-protocol") == chosen
                    message = (await peer.frame())[1].decode()
                    assert message.startswith(f"ana {chosen} (")
                    assert PLAIN not in message
            async with peer_of(app) as peer:
                await peer.open(f"{path}?a=1&token={PLAIN}&b=2")
                assert (await peer.frame())[1] == b"ana None () a=1&b=2"
            async with peer_of(app) as peer:
                await peer.open(path, authorization=f"Bearer {PLAIN}")
                assert (await peer.frame())[1] == b"ana None () "


@pytest.mark.anyio
@pytest.mark.parametrize("check", [verify, verify_later])
async def test_the_challenge_says_what_was_wrong(check: Any) -> None:
    app = App("*", 0, authenticate=TokenAuthenticator(check))
    app.route("/x", Greeting())
    async with running(app):
        for field, expected in {"Basic x": "Bearer", "Bearer wrong": 'Bearer error="invalid_token"'}.items():
            async with peer_of(app) as peer:
                await peer.send(handshake("/x", authorization=field))
                status, fields = await peer.head()
                assert (status, fields["www-authenticate"]) == (401, expected)
        async with peer_of(app) as peer:
            await peer.send(
                handshake("/x", authorization=f"Bearer {PLAIN}", sec_websocket_protocol=f"bearer, bearer.{PLAIN}")
            )
            assert (await peer.head())[0] == 400


@pytest.mark.anyio
async def test_a_redirect_to_a_folder_keeps_the_token(tmp_path: Path) -> None:
    app = App("*", 0)
    app.static("/files", tmp_path, authenticate=TokenAuthenticator(verify, QueryToken()))
    async with running(app), peer_of(app) as peer:
        await peer.send(get(f"/files?token={PLAIN}"))
        status, fields = await peer.head()
    assert (status, fields["location"]) == (308, f"files/?token={PLAIN}")


@pytest.mark.anyio
async def test_a_token_that_comes_later_is_checked_the_same_way() -> None:
    assert (await TokenAuthenticator(verify_later).verify(PLAIN)).user == "ana"  # type: ignore[misc]
    with pytest.raises(InvalidCredentials):
        await TokenAuthenticator(verify_later).verify("wrong")  # type: ignore[misc]
    with pytest.raises(InvalidCredentials):
        TokenAuthenticator(verify).verify("not a token")


@pytest.mark.anyio
async def test_the_first_credentials_that_are_found_decide() -> None:
    by_header = TokenAuthenticator(verify, BearerHeader())
    by_query = TokenAuthenticator(verify_later, QueryToken())
    either = first_of(by_header, by_query)
    assert (await either(bearer(f"Bearer {PLAIN}"))).user == "ana"
    assert (await either(Request(query_string=f"token={PLAIN}"))).user == "ana"
    assert await either(Request()) is None
    assert either.challenge == "Bearer"
    with pytest.raises(InvalidCredentials):
        await first_of(by_header, public)(bearer("Bearer wrong"))
    assert (await first_of(by_header, public)(Request())).user is None
    assert repr(either) == "first_of(TokenAuthenticator(BearerHeader()), TokenAuthenticator(QueryToken('token')))"


def without_token() -> str:
    return "ana"


def test_mistakes_raise_at_once() -> None:
    for make in (
        lambda: TokenAuthenticator(without_token),  # type: ignore[arg-type]
        lambda: TokenAuthenticator("secret"),  # type: ignore[arg-type]
        lambda: TokenAuthenticator(verify, BearerHeader),  # type: ignore[arg-type]
        lambda: TokenAuthenticator(verify, "token"),  # type: ignore[arg-type]
        lambda: first_of(),
        lambda: first_of(TokenAuthenticator),  # type: ignore[arg-type]
        lambda: first_of("secret"),  # type: ignore[arg-type]
        lambda: HeaderToken("X Key"),
        lambda: BearerSubprotocol("a b"),
        lambda: QueryToken(""),
    ):
        with pytest.raises(ConfigurationError):
            make()
