"""One request of a site after the other: bodies, pipelined requests, slow clients, limits and the drain."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.asgi_servers import until
from support.plain_site import SITE_BACKENDS, PlainSite, read_body, respond, served
from support.serving import GUARD
from support.smuggling import HOST, VECTORS
from support.wire import Peer, get, handshake, peer_of, running

from pywsapp import App, EchoServer, Options, Refuse
from pywsapp._protocol.handshake import is_upgrade
from pywsapp._protocol.http import HeadBuffer, parse_request
from pywsapp.asgi.site import Site

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", SITE_BACKENDS)]
MIB = 1024 * 1024
IMPATIENT = Options(ping_timeout=0.1, min_http_rate=None, handshake_timeout=0.1)


@pytest.fixture(autouse=True)
def parser(anyio_backend: tuple[str, dict[str, bool]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Select the HTTP protocol of uvicorn: one on each event loop."""
    monkeypatch.setattr(Site, "http", "httptools" if anyio_backend[1]["use_uvloop"] else "h11")


@pytest.fixture
def site() -> PlainSite:
    site = PlainSite()

    @site.at("/size")
    async def size(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"%d" % len(await read_body(receive)))

    return site


def post(path: str, body: bytes, fields: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


async def answers(peer: Peer, number: int) -> list[bytes]:
    return [(await peer.response()).body for _ in range(number)]


# -- bodies and pipelined requests -------------------------------------------------------------------------------------


async def test_large_bodies_and_the_next_requests(site: PlainSite) -> None:
    async with served(site) as (_, peer):
        sizes = (2 * MIB, 1, 0, MIB + 1)
        requests = b"".join(post("/size", b"x" * size) + get("/next") for size in sizes)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.send, requests)
            found = await answers(peer, 2 * len(sizes))
    assert found == [answer for size in sizes for answer in (b"%d" % size, b"GET /next")]


async def test_byte_by_byte(site: PlainSite) -> None:
    async with served(site) as (_, peer):
        for byte in post("/size", b"abc") + get("/next"):
            await peer.send(bytes([byte]))
        assert await answers(peer, 2) == [b"3", b"GET /next"]


async def test_many_pipelined_requests_in_one_read(site: PlainSite) -> None:
    number = 200
    async with served(site) as (_, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(peer.send, get("/") * number)
        assert await answers(peer, number) == [b"GET /"] * number
    assert len(site.paths) == number


async def test_a_body_that_the_site_does_not_read(site: PlainSite) -> None:
    async with served(site) as (_, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(peer.send, post("/left", b"x" * MIB) + get("/next"))
        assert await answers(peer, 2) == [b"POST /left", b"GET /next"]


CHUNKED = b"POST /size HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("behind", [b"", get("/hidden")], ids=["alone", "pipelined"])
async def test_a_chunked_body_is_the_last_one(site: PlainSite, behind: bytes) -> None:
    async with served(site) as (_, peer):
        await peer.send(get("/first") + CHUNKED + b"3\r\nabc\r\n" * 2)
        assert await answers(peer, 1) == [b"GET /first"]
        await peer.send(b"0\r\n\r\n" + behind)
        status, fields = await peer.head()
        assert (status, fields["connection"]) == (200, "close")
        assert await peer.read_to_end() == b"6"
    assert site.paths == ["/first", "/size"]


async def test_a_malformed_chunk(site: PlainSite, caplog: pytest.LogCaptureFixture) -> None:
    async with served(site) as (_, peer):
        await peer.send(CHUNKED.replace(b"/size", b"/page") + b"zz\r\n")
        assert (await peer.head())[0] == 400
        await until_closed(peer)
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["WARNING"]


async def test_expect(site: PlainSite) -> None:
    async with served(site) as (_, peer):
        request = post("/size", b"abc", "Expect: 100-continue\r\n")
        await peer.send(request[:-3])
        assert (await peer.head())[0] == 100
        await peer.send(request[-3:] + get("/hidden"))
        assert (await peer.response()).headers["connection"] == "close"
        assert await peer.receive() == b""
    assert site.paths == ["/size"]


async def test_an_upgrade_to_another_protocol_is_ignored(site: PlainSite, caplog: pytest.LogCaptureFixture) -> None:
    async with served(site) as (_, peer):
        await peer.send(handshake("/page", upgrade="h2c", connection="Upgrade, HTTP2-Settings") + get("/hidden"))
        response = await peer.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await peer.receive() == b""
    assert site.paths == ["/page"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "request_", [b"GET /a HTTP/1.0\r\n\r\n", get("/a")[:-2] + b"Connection: close\r\n\r\n"], ids=["1.0", "close"]
)
async def test_a_client_that_wants_no_further_response(site: PlainSite, request_: bytes) -> None:
    async with served(site) as (_, peer):
        await peer.send(request_ + get("/hidden"))
        assert (await peer.read_to_end()).endswith(b"\r\n\r\nGET /a")
    assert site.paths == ["/a"]


async def test_a_streamed_response(site: PlainSite) -> None:
    go_on = anyio.Event()

    @site.at("/stream")
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"two", "more_body": True})
        await send({"type": "http.response.body"})

    async with served(site) as (_, peer):
        await peer.send(get("/stream"))
        assert (await peer.head())[1]["transfer-encoding"] == "chunked"
        assert await peer.exactly(8) == b"3\r\none\r\n"
        go_on.set()
        assert await peer.exactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"
        await peer.send(get("/next"))
        assert await answers(peer, 1) == [b"GET /next"]


async def test_the_site_is_told_that_its_client_is_lost(site: PlainSite) -> None:
    events: list[Any] = []

    @site.at("/wait")
    async def wait(scope: Any, receive: Any, send: Any) -> None:
        events.extend([await receive(), await receive()])

    async with served(site) as (app, peer):
        await peer.send(get("/wait"))
        await until(lambda: site.paths)
        peer.reset()
        await until(lambda: len(events) == 2)
        assert [event["type"] for event in events] == ["http.request", "http.disconnect"]
        assert app.stats().open_connections == 0


# -- smuggling ---------------------------------------------------------------------------------------------------------


def accepted_paths(data: bytes) -> list[str]:
    """Return the paths of the requests that a strict reader finds, up to the first doubt."""
    paths = []
    while data:
        try:
            buffer = HeadBuffer(Options().max_header_size)
            head = buffer.receive(data)
            if head is None:
                break
            request = parse_request(head, max_headers=100, scheme="http", remote_address="")
        except Refuse:
            break
        if is_upgrade(request):
            break
        paths.append(request.path)
        if {"transfer-encoding", "expect", "upgrade"} & set(request.headers):
            break
        data = buffer.rest[int(request.headers.get("content-length", "0")) :]
    return paths


@pytest.mark.parametrize("before", [b"", f"GET /first HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()], ids=["new", "kept"])
async def test_the_site_gets_no_hidden_request(before: bytes, caplog: pytest.LogCaptureFixture) -> None:
    paths: dict[int, list[str]] = {}  # by the port of the client

    async def recording(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        paths.setdefault(scope["client"][1], []).append(scope["path"])
        while scope["path"] == "/open" and (await receive()).get("more_body"):
            pass
        await respond(send, b"read")

    found: dict[str, list[str]] = {}

    async def try_one(name: str) -> None:
        async with peer_of(app) as peer:
            port = peer.sock.getsockname()[1]
            await peer.send(before + VECTORS[name])
            await until_closed(peer)
            found[name] = paths.get(port, [])

    # Not `IMPATIENT`: a busy machine needs a while for so many connections at once.
    app = App("*", 0, options=Options(ping_timeout=1, min_http_rate=None, handshake_timeout=1))
    async with served(recording, app, idle_timeout=1), anyio.create_task_group() as tasks:
        for name in VECTORS:
            tasks.start_soon(try_one, name)
    expected = {name: accepted_paths(before + data) for name, data in VECTORS.items()}
    assert {name: got for name, got in found.items() if got != expected[name][: len(got)]} == {}
    assert found["head pipelined"] == expected["head pipelined"]  # which hides nothing
    assert "Traceback" not in caplog.text


async def until_closed(peer: Peer) -> None:
    with anyio.fail_after(GUARD), suppress(OSError):  # it can be reset, with unread data
        await peer.read_to_end()


# -- slow clients ------------------------------------------------------------------------------------------------------


def impatient() -> App:
    return App("*", 0, options=IMPATIENT)


async def test_a_client_that_does_not_take_the_response(site: PlainSite) -> None:
    sent = 0
    ended = anyio.Event()

    @site.at("/endless")
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not ended.is_set():
            await anyio.lowlevel.checkpoint()
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            sent += 100_000 * app.stats().open_connections

    async with served(site, impatient()) as (app, peer):
        await peer.send(get("/endless"))
        await until(lambda: sent)
        await until(lambda: app.stats().open_connections == 0)
        ended.set()
    assert sent < 16 * MIB  # the kernel keeps 4 MB


async def test_a_client_that_takes_a_long_response_steadily(site: PlainSite) -> None:
    size = 32 * MIB

    @site.at("/long")
    async def long(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        for _ in range(size // 65536):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body"})

    app = App("*", 0, options=Options(ping_timeout=0.5, min_http_rate=None))
    async with served(site, app) as (_, peer):
        await peer.send(get("/long"))
        await peer.head()
        for _ in range(32):  # each pause is short, and all of them are longer than `ping_timeout`
            await peer.exactly(MIB)
            await anyio.sleep(0.02)
        assert site.paths == ["/long"]


async def test_pipelined_requests_of_a_client_that_does_not_read(site: PlainSite) -> None:
    @site.at("/big")
    async def big(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"x" * MIB)

    async with served(site, impatient()) as (app, peer):
        await peer.send(get("/big") * 500)
        await until(lambda: site.paths)
        await until(lambda: app.stats().open_connections == 0 == app.stats().pending_connections)
    assert len(site.paths) < 50


@pytest.mark.parametrize("data", [post("/size", b"abc")[:-1], CHUNKED], ids=["length", "chunked"])
async def test_a_body_that_does_not_come(site: PlainSite, data: bytes) -> None:
    async with served(site, impatient()) as (_, peer):
        await peer.send(data)
        await until_closed(peer)
    assert site.paths == ["/size"]


async def test_a_body_without_end_after_an_early_answer(site: PlainSite) -> None:
    @site.at("/early")
    async def early(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"no")

    async with served(site) as (_, peer):
        await peer.send(b"POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        assert await answers(peer, 1) == [b"no"]
        sent = 0
        with anyio.fail_after(GUARD), suppress(OSError):
            while sent < 100 * MIB:
                await peer.send(b"x" * MIB)
                sent += MIB
        assert 8 * MIB < sent < 50 * MIB


async def test_a_slow_site_is_no_slow_client(site: PlainSite) -> None:
    @site.at("/slow")
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(0.3)
        await respond(send, b"%d" % len(await read_body(receive)))

    async with served(site, impatient()) as (_, peer):
        await peer.send(post("/slow", b"x" * 300_000))
        assert await answers(peer, 1) == [b"300000"]


async def test_an_idle_connection_closes_without_a_word(site: PlainSite) -> None:
    options = Options(ping_timeout=0.1)  # so that the server looks often
    async with served(site, App("*", 0, options=options), idle_timeout=0.5) as (app, peer):
        await peer.send(get("/"))
        assert await answers(peer, 1) == [b"GET /"]
        assert (app.stats().open_connections, app.stats().pending_connections) == (0, 1)
        with anyio.fail_after(GUARD):
            assert await peer.receive() == b""


async def test_the_head_of_the_next_request_has_its_own_time(site: PlainSite) -> None:
    app = App("*", 0, options=Options(handshake_timeout=0.3))
    async with served(site, app, idle_timeout=0.05) as (_, peer):
        await peer.send(get("/") + get("/")[:10])
        assert await answers(peer, 1) == [b"GET /"]
        assert (await peer.response()).status == 408


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_the_limit_of_heads_holds_for_every_request(site: PlainSite) -> None:
    async with served(site, App("*", 0, options=Options(max_header_size=1000))) as (_, peer):
        await peer.send(get("/") + get("/")[:-2] + b"A: " + b"x" * 1000 + b"\r\n\r\n")
        assert await answers(peer, 1) == [b"GET /"]
        assert (await peer.response()).status == 431


class Holding:
    """An answer that waits until it may go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        await respond(send, b"went on")


@pytest.mark.parametrize(
    ("limit", "status"), [("max_connections", 503), ("max_connections_per_address", 429)], ids=["all", "address"]
)
async def test_a_request_counts_as_a_connection(site: PlainSite, limit: str, status: int) -> None:
    holding = Holding()
    site.at("/hold")(holding)
    limits: dict[str, Any] = {limit: 1}
    app = App("*", 0, **limits)
    app.route("/echo", EchoServer())
    async with served(site, app) as (_, peer), peer_of(app) as other:
        await peer.send(get("/hold"))
        await until(lambda: site.paths)
        assert app.stats().open_connections == 1
        for refused in (get("/other"), handshake("/echo")):
            async with peer_of(app) as third:
                await third.send(refused)
                assert (await third.response()).status == status
        holding.go_on.set()
        assert await answers(peer, 1) == [b"went on"]
        await other.open("/echo")  # an idle connection does not count
        await peer.send(get("/third"))
        assert (await peer.response()).status == status
    assert site.paths == ["/hold"]


async def test_a_flood_behind_a_request_is_held_by_tcp(site: PlainSite) -> None:
    holding = Holding()
    site.at("/hold")(holding)
    async with served(site) as (_, peer):
        await peer.send(get("/hold"))
        await until(lambda: site.paths)
        flood = memoryview(b"x" * 32 * MIB)
        assert await peer.send_some(flood, within=0.2) < len(flood)
        holding.go_on.set()
        assert await answers(peer, 1) == [b"went on"]
        assert (await peer.response()).status == 414


# -- the drain ---------------------------------------------------------------------------------------------------------


async def test_a_drain_closes_idle_connections_and_waits_for_requests(site: PlainSite) -> None:
    holding = Holding()
    site.at("/hold")(holding)
    app = App("*", 0)
    app.site(site)
    async with running(app), peer_of(app) as idle, peer_of(app) as busy:
        await idle.send(get("/"))
        assert await answers(idle, 1) == [b"GET /"]
        await busy.send(get("/hold") + get("/hidden"))
        await until(lambda: "/hold" in site.paths)
        app.stop()
        assert await idle.receive() == b""
        holding.go_on.set()
        assert (await busy.read_to_end()).endswith(b"went on")
    assert site.events == ["startup", "shutdown"]
    assert "/hidden" not in site.paths


async def test_a_drain_cuts_requests_that_do_not_end(site: PlainSite, caplog: pytest.LogCaptureFixture) -> None:
    holding = Holding()
    site.at("/hold")(holding)
    app = App("*", 0, options=Options(drain_timeout=0.1))
    app.site(site)
    async with running(app), peer_of(app) as peer:
        await peer.send(get("/hold"))
        await until(lambda: site.paths)
        app.stop()
        await until_closed(peer)
    assert holding.cancelled == 1
    assert site.events == ["startup", "shutdown"]
    assert "1 connections did not end in time and are aborted" in caplog.text
    assert "1 tasks of the site did not end in time and are cancelled" in caplog.text


async def test_a_drain_waits_for_background_tasks(site: PlainSite) -> None:
    go_on = anyio.Event()

    @site.at("/mail")
    async def mail(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"soon")
        await go_on.wait()
        site.events.append("sent")

    app = App("*", 0)
    app.on_shutdown(go_on.set)
    async with served(site, app) as (_, peer):
        await peer.send(get("/mail"))
        assert await answers(peer, 1) == [b"soon"]
    assert site.events == ["startup", "sent", "shutdown"]
