"""No secret of a client is in any log line, whatever happens to its request."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support.wire import get, handshake, peer_of, running

from pywsapp import App, ConfigurationError, Connection, Headers, MessageComponent, QueryParams, Request, connect
from pywsapp.auth import (
    ApiKeyAuthenticator,
    BearerHeader,
    BearerSubprotocol,
    HeaderToken,
    QueryToken,
    SignedUrls,
    TokenAuthenticator,
    first_of,
)

SECRET = "ThisIsTheSecretOfAna0123456789"


class Noisy(MessageComponent):
    """Fails in every hook, with all that it has in the message."""

    def on_handshake(self, request: Request) -> None:
        logging.getLogger("pywsapp.test").info("%r %r %r", request, request.headers, request.query_params)

    def on_open(self, conn: Connection) -> None:
        raise ValueError(f"{conn!r} {conn.request!r} {conn.request.headers!r} {conn.request.query_params!r}")

    def on_close(self, conn: Connection) -> None:
        raise ValueError(f"{conn!r} {conn.state!r}")

    def on_request(self, request: Request) -> Any:
        raise ValueError(f"{request!r} {request.headers!r} {request.query_params!r}")


def knows(token: str) -> str | None:
    if token.endswith("error"):
        raise ValueError("the store is not there")
    return "ana" if token == SECRET else None


def requests_with(secret: str) -> list[bytes]:
    found = []
    for path in "/x", "/in/x", "/nothing", "/page", "/in":
        for query in (
            f"token={secret}",
            f"a=1&token={secret}&token={secret}",
            f"token={secret}%FF",
            f"signature={secret}",
        ):
            found += [handshake(f"{path}?{query}"), get(f"{path}?{query}"), get(f"{path}?{query}", "PUT")]
        for fields in (
            {"authorization": f"Bearer {secret}"},
            {"authorization": f"Bearer {secret} {secret}"},
            {"authorization": f"Basic {secret}"},
            {"x_my_key": secret},
            {"sec_websocket_protocol": f"bearer, bearer.{secret}"},
            {"sec_websocket_protocol": f"bearer.{secret}, bearer.{secret}"},
            {"sec_websocket_protocol": f"bearer.{secret}, bearer.{secret}x"},
            {"cookie": f"session={secret}"},
            {"origin": "http://evil.example", "authorization": f"Bearer {secret}"},
            {"host": "other.example:80", "authorization": f"Bearer {secret}"},
            {"sec_websocket_version": "12", "authorization": f"Bearer {secret}"},
        ):
            found.append(handshake(path, **fields))
    line = f"/x?token={secret}"
    found += [
        b"GET %b HTTP/1.1\r\n\r\n" % line.encode(),
        b"GET %b HTTP/3.1\r\nHost: localhost\r\n\r\n" % line.encode(),
        b"GET %b#x HTTP/1.1\r\nHost: localhost\r\n\r\n" % line.encode(),
        b"GET %b \xff HTTP/1.1\r\nHost: localhost\r\n\r\n" % line.encode(),
        b"GET /%%FF%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % line.encode(),
        b"G(T %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % line.encode(),
        b"GET %b HTTP/1.1\r\nHost: localhost\r\nAuthorization : Bearer %b\r\n\r\n" % (line.encode(), secret.encode()),
        b"GET %b HTTP/1.1\r\nHost: a/b\r\n\r\n" % line.encode(),
    ]
    return found


@pytest.mark.anyio
async def test_no_log_line_has_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    guard = first_of(
        TokenAuthenticator(knows, BearerHeader(), BearerSubprotocol(), QueryToken(), HeaderToken("X-My-Key")),
        SignedUrls(SECRET),
        ApiKeyAuthenticator({"ana": SECRET}),
    )
    inner = App()
    inner.route("/x", Noisy(), allowed_origins=["http://localhost"])
    app = App("localhost", 0, access_log=True, authenticate=guard)
    app.route("/x", Noisy(), allowed_origins=["http://localhost"])
    app.http("/page", lambda request: f"{request.user} {request.missing}")
    app.mount("/in", inner)
    statuses = set()
    async with running(app):
        for secret in SECRET, SECRET + "wrong", SECRET + "error", SECRET * 400:
            for request in requests_with(secret):
                async with peer_of(app) as peer:
                    await peer.send(request)
                    statuses.add((await peer.head())[0])
    assert {101, 400, 401, 403, 404, 500} <= statuses
    assert "ValueError" in caplog.text
    assert "pywsapp.access" in {record.name for record in caplog.records}
    assert SECRET not in caplog.text
    assert SECRET not in "".join(str(record.exc_info and record.exc_info[1]) for record in caplog.records)


def test_reprs_hide_secrets() -> None:
    headers = Headers(
        [("Authorization", SECRET), ("Cookie", SECRET), ("Sec-WebSocket-Protocol", SECRET), ("Host", "a")]
    )
    assert repr(headers) == (
        "Headers([('authorization', '...'), ('cookie', '...'), ('sec-websocket-protocol', '...'), ('host', 'a')])"
    )
    params = QueryParams(f"token={SECRET}&TICKET={SECRET}&signature={SECRET}&room=1")
    assert repr(params) == "QueryParams([('token', '...'), ('TICKET', '...'), ('signature', '...'), ('room', '1')])"


@pytest.mark.parametrize(
    "url",
    [
        f"http://localhost/x?token={SECRET}",
        f"ws://localhost:x/x?token={SECRET}",
        f"ws:localhost?token={SECRET}",
        f"http://ana:{SECRET}@localhost/x",
        f"ws://ana:{SECRET}@localhost/x",
        f"ws:ana:{SECRET}@localhost/x",
        f"ana:{SECRET}@localhost//x",
        f"ws://localhost/\N{LATIN SMALL LETTER U WITH DIAERESIS}?token={SECRET}",
        f"ws://localhost/x?a b&token={SECRET}",
    ],
)
def test_a_wrong_url_of_a_client_is_shown_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect(url)
    assert SECRET not in str(caught.value)
