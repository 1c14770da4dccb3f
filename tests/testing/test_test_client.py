"""`TestClient` runs an App in memory, with all that it does on a socket."""

from __future__ import annotations

import threading
import time
from typing import Any

import anyio
import anyio.from_thread
import pytest
from support.services import free_port

from pywsapp import (
    Accept,
    App,
    Connection,
    ConnectionClosed,
    Deflate,
    EchoServer,
    HandshakeError,
    MessageComponent,
    Options,
    Request,
    Response,
    in_thread,
)
from pywsapp.auth import public
from pywsapp.exceptions import ConfigurationError, InvalidCredentials
from pywsapp.testing import TestClient, until_idle
from pywsapp.testing.pipe import PumpedTransport

pytestmark = pytest.mark.anyio


class Chat(MessageComponent):
    """Answers commands."""

    subprotocols = ("chat.v2", "chat.v1")

    def __init__(self) -> None:
        self.closed: list[tuple[int | None, str, bool]] = []
        self.released = anyio.Event()

    def on_message(self, conn: Connection, message: Any) -> Any:
        if message == "user":
            conn.send(str(conn.user))
        elif message == "fail":
            raise ValueError("the handler fails")
        elif message == "bye":
            conn.close(4000, "as you wish")
        elif message == "later":
            return self.answer_later(conn)
        else:
            conn.send(message)
        return None

    async def answer_later(self, conn: Connection) -> None:
        await self.released.wait()
        conn.send("later")

    async def on_close(self, conn: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed.append((conn.close_code, conn.close_reason, conn.was_clean))


@pytest.fixture
def chat() -> Chat:
    return Chat()


@pytest.fixture
def app(chat: Chat) -> App:
    app = App()
    app.route("/chat", chat)
    return app


async def test_echo_of_text_binary_and_json(app: App) -> None:
    async with TestClient(app) as client, client.connect("/chat") as ws:
        ws.send("hello")
        assert await ws.receive() == "hello"
        await ws.send(b"\0\xff")
        assert await ws.receive_bytes() == b"\0\xff"
        await ws.send_json({"a": [1, "é"]})
        assert await ws.receive_json() == {"a": [1, "é"]}
        await ws.assert_silent()
        await ws.ping()


@pytest.mark.parametrize(
    "compression", [False, True, Deflate(threshold=20_000)], ids=["off", "on", "above a threshold"]
)
async def test_compression(chat: Chat, compression: bool | Deflate, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    write = PumpedTransport.write

    def record(transport: PumpedTransport, data: bytes) -> None:
        sizes.append(len(data))
        write(transport, data)

    app = App(options=Options(deflate=Deflate()))
    app.route("/chat", chat)
    async with TestClient(app) as client, client.connect("/chat", compression=compression) as ws:
        assert ws.has_compression is bool(compression)
        monkeypatch.setattr(PumpedTransport, "write", record)
        await ws.send("x" * 10_000)
        assert await ws.receive() == "x" * 10_000
        assert (sizes[0] < 500) is (compression is True)  # what the client sends
        assert sizes[-1] < 500 or not compression  # what the App sends


async def test_an_app_without_compression(app: App) -> None:
    async with TestClient(app) as client, client.connect("/chat", compression=True) as ws:
        assert not ws.has_compression
        await ws.send("hello")
        assert await ws.receive() == "hello"
        assert "with permessage-deflate" not in str(ws.transcript)


async def test_a_failure_says_that_the_connection_is_compressed(chat: Chat) -> None:
    app = App(options=Options(deflate=Deflate()))
    app.route("/chat", chat)
    async with TestClient(app) as client, client.connect("/chat", compression=True) as ws:
        with pytest.raises(AssertionError, match="opened with permessage-deflate"):
            await ws.receive(timeout=0.05)


async def test_refused_handshakes(app: App) -> None:
    async with TestClient(app) as client:
        assert (await client.assert_refused("/nothing", status=404)).status == 404
        await client.assert_refused("/chat", 403, origin="https://evil.example")
        with pytest.raises(HandshakeError, match="/nothing was refused with 404") as caught:
            async with client.connect("/nothing"):
                pass
        assert caught.value.status == 404


async def test_an_expectation_of_a_refusal_fails_with_what_happened(app: App) -> None:
    async with TestClient(app) as client:
        with pytest.raises(AssertionError, match="the handshake of /chat was accepted, not refused with 403"):
            await client.assert_refused("/chat", 403)
        with pytest.raises(AssertionError, match=r"the handshake of /no was refused with 404 .*, not 403"):
            await client.assert_refused("/no", 403)


async def test_on_close_has_ended_when_the_block_has(app: App, chat: Chat) -> None:
    async with TestClient(app) as client:
        async with client.connect("/chat"):
            pass
        assert chat.closed == [(1000, "", True)]
        async with client.connect("/chat") as ws:
            await ws.close(4001, "enough")
            assert (ws.close_code, ws.is_open) == (4001, False)
        assert chat.closed[1:] == [(4001, "enough", True)]
        async with client.connect("/chat") as ws:
            ws.reset()
        assert chat.closed[2:] == [(1006, "connection lost", False)]


async def test_the_app_closes(app: App) -> None:
    async with TestClient(app) as client, client.connect("/chat") as ws:
        ws.send("bye")
        await ws.assert_closed(4000, "as you wish")
        with pytest.raises(AssertionError, match="closed with code 4000, not 1000"):
            await ws.assert_closed(1000)
        with pytest.raises(AssertionError, match="the reason of the close is 'as you wish', not 'no'"):
            await ws.assert_closed(reason="no")
        with pytest.raises(ConnectionClosed, match=r"ended with code 4000 \(as you wish\)"):
            await ws.receive()
        with pytest.raises(ConnectionClosed):
            ws.send("too late")


async def test_hooks_run_and_their_exceptions_come_through(app: App) -> None:
    calls: list[str] = []
    app.on_startup(lambda: calls.append("startup"))
    app.on_shutdown(lambda: calls.append("shutdown"))
    async with TestClient(app) as client:
        assert calls == ["startup"]
        assert client.app is app
    assert calls == ["startup", "shutdown"]

    @app.on_startup
    async def fail() -> None:
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        async with TestClient(app):
            pass


async def test_an_exception_of_a_handler_is_raised_where_the_test_waits(app: App) -> None:
    async with TestClient(app) as client, client.connect("/chat") as ws:
        ws.send("fail")
        with pytest.raises(ValueError, match="the handler fails"):
            await ws.receive()
        assert client.errors == []


async def test_an_exception_of_a_handler_fails_the_test_at_the_end(app: App) -> None:
    async def fail_unnoticed() -> None:
        async with TestClient(app) as client, client.connect("/chat") as ws:
            ws.send("fail")
            await ws.assert_closed(1011)

    with pytest.raises(ValueError, match="the handler fails"):
        await fail_unnoticed()


async def test_exceptions_of_handlers_can_be_left_to_on_error(app: App) -> None:
    async with TestClient(app, raise_handler_errors=False) as client, client.connect("/chat") as ws:
        ws.send("fail")
        await ws.assert_closed(1011, "internal error")
        with pytest.raises(ConnectionClosed, match="ValueError: the handler fails"):
            await ws.receive()
        assert [str(exc) for exc in client.errors] == ["the handler fails"]


async def test_what_on_error_handles_does_not_fail_the_test() -> None:
    class Careful(Chat):
        def on_error(self, conn: Connection, exc: Exception) -> None:
            conn.send(f"error: {exc}")

    app = App()
    app.route("/", Careful())
    async with TestClient(app) as client, client.connect("/") as ws:
        ws.send("fail")
        assert await ws.receive() == "error: the handler fails"


async def test_an_exception_of_a_background_task_fails_the_test(app: App) -> None:
    async def work() -> None:
        raise KeyError("background")

    app.start_soon(work)
    with pytest.raises(KeyError, match="background"):
        async with TestClient(app):
            pass


async def test_a_failed_test_shows_the_exception_of_the_handler(app: App) -> None:
    async def fail() -> None:
        async with TestClient(app) as client, client.connect("/chat") as ws:
            ws.send("fail")
            await ws.assert_closed(1000)

    with pytest.raises(AssertionError) as caught:
        await fail()
    assert "ValueError: the handler fails" in str(caught.value)
    assert "in on_message" in str(caught.value)


async def test_a_timeout_shows_what_was_sent_and_received(app: App) -> None:
    async with TestClient(app) as client, client.connect("/chat") as ws:
        ws.send("one")
        await ws.receive()
        ws.send(b"x" * 1000)
        await ws.receive()
        with pytest.raises(AssertionError) as caught:
            await ws.receive(timeout=0.01)
    lines = str(caught.value).splitlines()
    assert lines[:4] == [
        "no message came within 0.01 seconds",
        "the connection to /chat so far (-> sent by the test, <- received):",
        "    opened",
        "    -> 'one'",
    ]
    assert lines[-1].endswith("x'... (1,000 in all)")


async def test_a_transcript_is_bounded(app: App) -> None:
    async with TestClient(app) as client, client.connect("/chat") as ws:
        for number in range(100):
            ws.send(str(number))
            assert await ws.receive() == str(number)
        text = str(ws.transcript)
    assert "(171 earlier lines)" in text
    assert len(text.splitlines()) == 32


async def test_a_message_of_the_wrong_type(app: App) -> None:
    async with TestClient(app) as client, client.connect("/chat") as ws:
        ws.send("text")
        with pytest.raises(AssertionError, match="the message is text, not binary: 'text'"):
            await ws.receive_bytes()
        ws.send("{")
        with pytest.raises(AssertionError, match="the message is no JSON"):
            await ws.receive_json()
        ws.send(b"binary")
        with pytest.raises(AssertionError, match="the message is binary, not text"):
            await ws.receive_text()
        with pytest.raises(TypeError, match=r"not dict: use ws\.send_json"):
            ws.send({})  # type: ignore[arg-type]


async def test_silence(app: App, chat: Chat) -> None:
    async with TestClient(app) as client, client.connect("/chat") as ws:
        ws.send("hello")
        with pytest.raises(AssertionError, match="a message arrived: 'hello'"):
            await ws.assert_silent()
        await ws.receive()
        ws.send("later")
        await ws.assert_silent(0.01)  # the handler waits
        chat.released.set()
        with pytest.raises(AssertionError, match="a message arrived: 'later'"):
            await ws.assert_silent()


async def test_the_user_is_given_in_place_of_authenticate() -> None:
    def authenticate(request: Request) -> Any:
        raise InvalidCredentials("no token")

    app = App(authenticate=authenticate)
    app.route("/chat", Chat())
    app.route("/public", Chat(), authenticate=public)
    app.http("/me", lambda request: request.user)
    async with TestClient(app) as client:
        await client.assert_refused("/chat", 401)
        await client.assert_refused("/chat", 401, user=None)
        for path in "/chat", "/public":
            async with client.connect(path, user="ana") as ws:
                ws.send("user")
                assert await ws.receive() == "ana"
        assert (await client.get("/me")).status == 401
        assert (await client.get("/me", user="ana")).text == "ana"


async def test_the_arguments_of_a_handshake(app: App) -> None:
    seen: list[Request] = []

    class Guarded(Chat):
        def on_handshake(self, request: Request) -> None:
            seen.append(request)

    app.route("/guarded", Guarded())
    async with (
        TestClient(app, headers={"X-One": "1"}, cookies={"a": "1"}) as client,
        client.connect(
            "/guarded?room=7",
            headers={"X-Two": "2"},
            subprotocols=["chat.v1", "chat.v2"],
            cookies={"b": "2"},
            address="203.0.113.7",
            origin="http://localhost",
        ) as ws,
    ):
        assert ws.subprotocol == "chat.v2"
        assert ws.headers["upgrade"] == "websocket"
    [request] = seen
    assert request.query_params["room"] == "7"
    assert (request.headers["x-one"], request.headers["x-two"]) == ("1", "2")
    assert request.cookies == {"a": "1", "b": "2"}
    assert request.remote_address == "203.0.113.7"


async def test_plain_requests(app: App) -> None:
    async def save(request: Request) -> Response:
        return Response.json({"got": (await request.read()).decode()}, 201)

    app.http("/save", save, methods=["POST"])
    app.http("/page", lambda request: "page")
    app.http("/large", lambda request: b"x" * 1_000_000)
    async with TestClient(app) as client:
        response = await client.post("/save", json={"a": 1})
        assert (response.status, response.json()) == (201, {"got": '{"a":1}'})
        assert (await client.post("/save", body="text")).json() == {"got": "text"}
        response = await client.get("/page")
        assert (response.text, response.headers["content-type"]) == ("page", "text/plain; charset=utf-8")
        assert (await client.request("HEAD", "/page")).body == b""
        assert len((await client.get("/large")).body) == 1_000_000
        assert (await client.get("/chat")).status == 426


async def test_an_exception_of_a_page_is_raised(app: App) -> None:
    def fail(request: Request) -> str:
        raise ValueError("the page fails")

    app.http("/fail", fail)
    async with TestClient(app) as client:
        with pytest.raises(ValueError, match="the page fails"):
            await client.get("/fail")
    async with TestClient(app, raise_handler_errors=False) as client:
        assert (await client.get("/fail")).status == 500


async def test_an_app_can_run_again_and_answers_only_to_its_host() -> None:
    app = App(["chat.example", "*.chat.example"])
    app.route("/", EchoServer())
    for _ in range(2):
        async with TestClient(app) as client, client.connect("/") as ws:
            ws.send("hello")
            assert await ws.receive() == "hello"
    async with TestClient(app, host="evil.example") as client:
        await client.assert_refused("/", 404)


async def test_a_mounted_app_is_tested_as_a_part_of_the_other() -> None:
    inner, outer = App(), App()
    inner.route("/echo", EchoServer())
    outer.mount("/inner", inner)
    async with TestClient(outer) as client, client.connect("/inner/echo") as ws:
        ws.send("hello")
        assert await ws.receive() == "hello"
    with pytest.raises(ConfigurationError, match="mounted"):
        async with TestClient(inner):
            pass


async def test_a_forgotten_await_fails_the_test(app: App) -> None:
    with pytest.raises(AssertionError, match=r"checked nothing here: .*write `await ws.assert_closed\(...\)`"):
        async with TestClient(app) as client, client.connect("/chat") as ws:
            ws.assert_closed(1000)  # type: ignore[unused-coroutine]


async def test_mistakes_are_explained(app: App) -> None:
    client = TestClient(app)
    with pytest.raises(ConfigurationError, match=r"write `async with TestClient"):
        async with client.connect("/chat"):
            pass
    async with client:
        ws: Any = client.connect("/chat")
        with pytest.raises(AttributeError, match=r"write `async with client.connect"):
            ws.send("hello")
        with pytest.raises(ConfigurationError, match=r"write `async with client.connect"):
            await ws
    with pytest.raises(ConfigurationError, match="used before"):
        async with client:
            pass


async def test_clients_talk_to_each_other() -> None:
    class Room(MessageComponent):
        async def on_open(self, conn: Connection) -> None:
            await conn.subscribe("room")

        def on_message(self, conn: Connection, message: Any) -> None:
            assert conn.app is not None
            conn.app.topic("room").broadcast(message, exclude=conn)

    app = App()
    app.route("/", Room())
    async with TestClient(app) as client, client.connect("/") as ana, client.connect("/") as bob:
        await ana.ping()
        await bob.ping()
        ana.send("hello")
        assert await bob.receive() == "hello"
        await ana.assert_silent()
        assert app.stats().topics.topics == 1


async def test_a_thread_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Threads(MessageComponent):
        @in_thread
        def on_message(self, conn: Connection, message: Any) -> None:
            if message == "short":
                time.sleep(0.02)
            else:
                release.wait(20)
            anyio.from_thread.run_sync(conn.send, message)

    app = App()
    app.route("/", Threads())
    async with TestClient(app) as client, client.connect("/") as ws:
        ws.send("short")
        await ws.ping()
        await until_idle()
        assert await ws.receive(timeout=0) == "short"
        monkeypatch.setattr("pywsapp.testing.idle._THREAD_SECONDS", 0.1)
        ws.send("long")
        await ws.ping()
        await until_idle()
        await ws.assert_silent()
        release.set()
        assert await ws.receive() == "long"


async def test_a_failed_test_does_not_wait_for_a_handler_that_hangs() -> None:
    calls: list[str] = []

    class Hangs(MessageComponent):
        async def on_message(self, conn: Connection, message: Any) -> None:
            await anyio.sleep_forever()

        def on_close(self, conn: Connection) -> None:
            calls.append("on_close")

    app = App()
    app.route("/", Hangs())
    app.on_shutdown(lambda: calls.append("shutdown"))

    async def fail() -> None:
        async with TestClient(app) as client, client.connect("/") as ws:
            ws.send("hello")
            await ws.ping()
            raise ZeroDivisionError

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        await fail()
    assert calls == ["on_close", "shutdown"]
    assert time.monotonic() - began < app.options.drain_timeout


async def test_a_health_port_is_not_opened() -> None:
    one, other = App(), App()
    port = free_port()
    for app in one, other:
        app.health(port=port)  # on a socket, only one of them could have it
    async with TestClient(one), TestClient(other):
        pass


# -- cookies and faults ------------------------------------------------------------------------------------------------


async def test_cookies_are_kept_as_a_browser_does() -> None:
    app = App()

    class Setting(MessageComponent):
        def on_handshake(self, request: Request) -> Accept:
            return Accept(headers=(("Set-Cookie", "ws=1; HttpOnly"), ("Set-Cookie", "here=2; Path=/ws")))

    def page(request: Request) -> Response:
        return Response.json(request.cookies, headers={"Set-Cookie": request.query_params.get("set", "page=3; Path=/")})

    app.route("/ws", Setting())
    app.http("/page", page)
    async with TestClient(app, cookies={"own": "0"}) as client:
        async with client.connect("/ws"):
            pass
        assert (await client.get("/page")).json() == {"own": "0", "ws": "1"}
        assert dict(client.cookies) == {"own": "0", "ws": "1", "here": "2", "page": "3"}
        await client.get("/page?set=page=4;Max-Age=0")
        await client.get("/page?set=ws=;Expires=Thu,%2001%20Jan%201970%2000:00:00%20GMT")
        del client.cookies["own"]
        assert (await client.get("/page", cookies={"once": "5"})).json() == {"once": "5"}
        assert dict(client.cookies) == {"here": "2", "page": "3"}


async def test_a_client_that_reads_too_slowly() -> None:
    class Floods(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            for _ in range(20):
                conn.send(b"x" * 10_000)

    app = App(options=Options(high_water=20_000, max_outbox=50_000))
    app.route("/", Floods())
    async with TestClient(app) as client, client.connect("/") as ws:
        ws.pause_reading()
        ws.send("flood")
        await until_idle()
        ws.resume_reading()
        await ws.assert_closed(1013)


async def test_bytes_that_no_client_sends(app: App) -> None:
    async with TestClient(app) as client, client.connect("/chat") as ws:
        ws.send_raw(b"\xff\x80\0\0\0\0")
        await ws.assert_closed(1002)


async def test_iteration_ends_with_the_connection(app: App) -> None:
    class Counts(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            for number in range(3):
                conn.send(str(number))
            conn.close(4000 if conn.request.query_params else 1000)

    app.route("/count", Counts())
    async with TestClient(app) as client:
        async with client.connect("/count") as ws:
            assert [message async for message in ws] == ["0", "1", "2"]
        async with client.connect("/count?bad=1") as ws:
            with pytest.raises(ConnectionClosed):
                _ = [message async for message in ws]
