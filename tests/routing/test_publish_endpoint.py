"""Publishing by HTTP: the message of a signed request is broadcast, and no other request is accepted."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.serving import GUARD, Serving, serving

from pywsapp import App, ConfigurationError, Connection, MessageComponent, Refuse
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.codecs import MessagePackCodec
from pywsapp.routing.endpoints import TOLERANCE_SECONDS, _message, sign

KEY = "k" * 32
PATH = "/publish"


class Listen(MessageComponent):
    def __init__(self, app: App) -> None:
        self.app = app

    def on_open(self, conn: Connection) -> None:
        self.app.topic("news").add(conn)


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    app = App("*", 0)
    app.route("/", Listen(app), allowed_origins=["*"])
    app.publish_endpoint("/publish", KEY)
    async with serving(app) as running:
        yield running


async def post(
    server: Serving, body: bytes, signature: str | None = None, method: str = "POST", path: str = PATH
) -> tuple[int, str]:
    headers = {"X-Signature": sign(KEY, PATH, body, time.time()) if signature is None else signature}

    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    return await anyio.to_thread.run_sync(ask)


def news(**fields: Any) -> bytes:
    return json.dumps({"topic": "news", **fields}).encode()


@pytest.mark.anyio
async def test_a_posted_message_is_broadcast(server: Serving) -> None:
    async with server.client() as client:
        assert await post(server, news(text="hello")) == (204, "")
        assert (await client.receive())[1] == b"hello"
        assert await post(server, news(base64=base64.b64encode(b"\x00\xff").decode())) == (204, "")
        assert (await client.receive())[1] == b"\x00\xff"
        for data in ({"order": 17}, ["Zürich", None], 21.5, False, "a text"):
            assert await post(server, news(data=data)) == (204, "")
            text = (await client.receive())[1].decode()
            assert (text if data == "a text" else json.loads(text)) == data


@pytest.mark.anyio
async def test_an_object_that_the_codec_of_its_topic_does_not_take_is_refused() -> None:
    app = App("*", 0)
    app.topic_codec("numbers", MessagePackCodec())
    app.publish_endpoint("/publish", KEY)
    async with serving(app) as server:
        for number, status in ((2**63, 204), (2**64, 400)):
            assert (await post(server, json.dumps({"topic": "numbers", "data": number}).encode()))[0] == status


@pytest.mark.anyio
async def test_a_body_can_arrive_in_pieces(server: Serving) -> None:
    body = news(text="x" * 60_000)
    head = f"POST /publish HTTP/1.1\r\nHost: a\r\nX-Signature: {sign(KEY, PATH, body, time.time())}\r\n"
    async with server.client() as client, await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
        for start in range(10, len(body), 7000):
            await stream.send(body[start : start + 7000])
        with anyio.fail_after(GUARD):
            assert (await stream.receive()).startswith(b"HTTP/1.1 204")
        assert (await client.receive())[1] == b"x" * 60_000


@pytest.mark.anyio
async def test_a_signature_must_be_valid_and_is_accepted_once(server: Serving) -> None:
    body, now = news(text="hello"), time.time()
    good = sign(KEY, PATH, body, now)
    assert (await post(server, body, good))[0] == 204
    for bad in (
        good,
        "",
        good[:-1],
        good + "0",
        sign("another key, as long", PATH, body, now),
        sign(KEY, PATH, body + b" ", now),
        sign(KEY, "/other", body, now),
        sign(KEY, PATH, body, now - TOLERANCE_SECONDS - 10),
        sign(KEY, PATH, body, now + TOLERANCE_SECONDS + 10),
        good.replace("t=", "t=1"),
    ):
        status, text = await post(server, body, bad)
        assert (status, text.startswith("the signature")) == (401, True), bad


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b"{}",
        b'{"topic": "news"}',
        b'{"topic": "news", "text": 7}',
        b'{"topic": "news", "base64": 7}',
        b'{"topic": "news", "data": null}',
        b'{"topic": "news", "data": NaN}',
        b'{"topic": "news", "data": ["\\ud800"]}',
        b'{"topic": "news", "data": "x", "text": "x"}',
        b'{"topic": 7, "text": "x"}',
        b'{"topic": "news", "text": "x", "id": 7}',
        b'{"topic": "news", "text": "x", "base64": "eA=="}',
        b'{"topic": "news", "base64": "x"}',
        b'{"topic": "no spaces", "text": "x"}',
        b'{"topic": "$pywsapp:alive", "text": "x"}',
        b'{"topic": "news", "text": "\\ud800"}',
        b"[" * 20_000,
    ],
)
async def test_an_invalid_message_is_refused(server: Serving, body: bytes) -> None:
    assert (await post(server, body))[0] == 400


@pytest.mark.anyio
async def test_other_requests_are_refused(server: Serving) -> None:
    assert (await post(server, news(text="x" * 70_000)))[0] == 413
    assert (await post(server, b"", method="PUT"))[0] == 405
    head = b"POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send(head)
        with anyio.fail_after(GUARD):
            assert (await stream.receive()).startswith(b"HTTP/1.1 411")


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/publish/", "/publish/news", "/publish/a/b", "/publishx"])
async def test_there_is_nothing_below_the_path(server: Serving, path: str) -> None:
    assert (await post(server, news(text="hello"), path=path))[0] == 404


@pytest.mark.anyio
async def test_an_unavailable_broker_is_a_503() -> None:
    broker = MemoryBroker()
    broker.available = False
    app = App("*", 0, broker=broker)
    app.publish_endpoint("/publish", KEY)
    async with serving(app) as server:
        status, text = await post(server, news(text="hello"))
        assert (status, "not connected" in text) == (503, True)


@pytest.mark.anyio
async def test_a_peer_that_disconnects_in_the_middle_has_no_effect(server: Serving) -> None:
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send(b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
    async with server.client() as client:
        assert (await post(server, news(text="still here")))[0] == 204
        assert (await client.receive())[1] == b"still here"


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 16 bytes"):
        App().publish_endpoint("/publish", "short")


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(repr))
def test_any_body_is_a_message_or_refused(body: bytes | str) -> None:
    status = 204
    try:
        _message(body if isinstance(body, bytes) else body.encode("utf-8", "replace"))
    except Refuse as exc:
        status = exc.status
    assert status in (204, 400)
