"""Typed messages of `connect` and `reconnecting`: objects, invalid messages, the choice of the codec, and calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from support.client_servers import echoing
from support.serving import GUARD
from support.typed import Join, Login, Logout, Point, Say
from support.waiting import until_blocked
from support.wire import running

from pywsapp import (
    App,
    Backoff,
    CallError,
    CallTimeout,
    ClientConnection,
    ConfigurationError,
    Connection,
    ConnectionClosed,
    InvalidMessage,
    MessageComponent,
    Options,
    PreparedMessage,
    connect,
    on,
    reconnecting,
    rpc,
    run_client,
)
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec, ProtobufCodec

pytestmark = pytest.mark.anyio
JSON, MSGPACK, CBOR = JsonCodec(), MessagePackCodec(), CborCodec()
QUICK = Backoff(base=0.01)
every_codec = pytest.mark.parametrize("codec", [JSON, MSGPACK, CBOR], ids=lambda codec: codec.name)


class Rooms(MessageComponent):
    """Answers what a client says, and calls."""

    @on("join")
    def joined(self, conn: Connection, message: Join) -> None:
        conn.send(Say(message.room))
        conn.send(Join(message.room))

    @on("echo")
    def echoed(self, conn: Connection, message: dict[str, Any]) -> None:
        conn.send(message["value"])

    @rpc
    async def add(self, conn: Connection, a: int, b: int = 0) -> int:
        return a + b

    @rpc
    def flood(self, conn: Connection, count: int) -> str:
        for number in range(count):
            conn.send({"type": "say", "text": str(number)})
        return "done"

    @rpc
    def fail(self, conn: Connection) -> None:
        raise CallError("no", "never")

    @rpc
    def end(self, conn: Connection, code: int) -> None:
        conn.close(code)

    @rpc
    def later(self, conn: Connection, seconds: float) -> None:
        """Answer this call with the next message, after other messages."""


class Silent(MessageComponent):
    """Answers no call."""

    def on_message(self, conn: Connection, message: dict[str, Any]) -> None:
        if message.get("method") == "late":
            conn.send({"id": message["id"] - 1, "result": "late"})
            conn.send({"id": message["id"], "result": "in time"})


@asynccontextmanager
async def rooms(codec: Any = (JSON, MSGPACK, CBOR), component: MessageComponent | None = None) -> AsyncIterator[str]:
    """Serve a component, `Rooms` by default; yield the URL."""
    app = App("*", 0)
    app.route("/", component or Rooms(), allowed_origins=["*"], codec=codec)
    with anyio.fail_after(GUARD):
        async with running(app):
            yield f"ws://127.0.0.1:{app.port}/"


# -- messages ----------------------------------------------------------------------------------------------------------


@every_codec
async def test_objects_are_sent_and_received(codec: Codec) -> None:
    async with rooms() as url, connect(url, codec=codec, message_type=Join | Say) as conn:
        await conn.send(Join("tea"))
        await conn.send({"type": "join", "room": "cup"})
        assert [await conn.receive(), await conn.receive(), await conn.receive(Say)] == [
            Say("tea"),
            Join("tea"),
            Say("cup"),
        ]
        assert await conn.receive(dict, timeout=GUARD) == {"type": "join", "room": "cup"}
        await conn.send(Join("end"))
        received = []
        async for message in conn:
            received.append(message)
            if isinstance(message, Join):
                await conn.close()
        assert received == [Say("end"), Join("end")]
        assert isinstance(conn, ClientConnection)
        conn.send({"after": "the end"})


async def test_a_codec_alone_leaves_messages_as_they_came() -> None:
    async with rooms() as url, connect(url, codec=MSGPACK) as conn:
        await conn.send(Join("tea"))
        assert await conn.receive() == MSGPACK.encode(Say("tea"))
        assert await conn.receive(Join) == Join("tea")


async def test_a_message_type_alone_is_read_from_json() -> None:
    async with rooms() as url, connect(url, message_type=Say) as conn:
        await conn.send({"type": "join", "room": "tea"})
        assert await conn.receive() == Say("tea")
        assert await conn.receive(str) == '{"type":"join","room":"tea"}'
        assert conn.subprotocol is None


async def test_text_and_bytes_stay_as_they_are() -> None:
    async with echoing() as app, connect(f"ws://127.0.0.1:{app.port}/", codec=MSGPACK, message_type=Join | str) as conn:
        for sent in ("text", bytearray(b"\x00"), PreparedMessage("prepared"), Join("tea")):
            await conn.send(sent)
        assert await conn.receive() == "text"
        assert await conn.receive(bytes) == b"\x00"
        assert [await conn.receive(), await conn.receive()] == ["prepared", Join("tea")]
        with pytest.raises(TypeError):
            conn.send(object())  # type: ignore[arg-type]


async def test_a_connection_without_a_codec() -> None:
    async with echoing() as app, connect(f"ws://127.0.0.1:{app.port}/") as conn:
        assert type(conn) is ClientConnection
        with pytest.raises(TypeError, match="codec"):
            conn.send({"no": "codec"})
        conn.send("text")
        conn.send(b"bytes")
        with pytest.raises(ConfigurationError, match=r"connect\(url, codec=JsonCodec\(\)\)"):
            await conn.receive(Join)
        with pytest.raises(ConfigurationError, match="connect"):
            await conn.call("add")
        assert await conn.receive(str) == "text"  # what could not be read was not lost
        with pytest.raises(InvalidMessage, match="a text message was expected"):
            await conn.receive(str)
        conn.send("text")
        with pytest.raises(InvalidMessage, match="a binary message was expected"):
            await conn.receive(bytes)


@pytest.mark.parametrize(
    ("text", "path"),
    [('{"type":"say","text":5}', "$.text"), ('{"type":"other"}', "$.type"), ("{", "$"), ("[]", "$")],
    ids=["field", "tag", "json", "array"],
)
async def test_an_invalid_message_leaves_the_connection_usable(text: str, path: str) -> None:
    async with rooms() as url, connect(url, message_type=Say | Join) as conn:
        conn.send({"type": "echo", "value": text})
        conn.send(Join("tea"))
        with pytest.raises(InvalidMessage) as caught:
            await anext(aiter(conn))
        assert (caught.value.raw, caught.value.path) == (text, path)
        async for message in conn:
            assert message == Say("tea")
            break
        with pytest.raises(InvalidMessage) as caught:
            await conn.receive(Say)
        assert caught.value.raw == '{"type":"join","room":"tea"}'
        assert await conn.call("add", [1]) == 1


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ('{"x":1}', Point, Point(1)),
        ('{"type":"login","name":"Ana"}', Login | Logout, Login(name="Ana")),
        ('{"type":"login","name":"Ana"}', Login | Join, Login(name="Ana")),
        ('{"x":1}', dict, {"x": 1}),
        ('{"x":1}', Any, '{"x":1}'),
        ('{"x":1}', str | bytes, '{"x":1}'),
        ('{"x":1}', Annotated[Point, []], Point(1)),
    ],
    ids=["class", "models", "libraries", "dict", "any", "raw", "without a hash"],
)
async def test_types_of_all_libraries(text: str, kind: Any, expected: Any) -> None:
    async with echoing() as app:
        url = f"ws://127.0.0.1:{app.port}/"
        async with connect(url, message_type=kind) as typed, connect(url, codec=JSON) as conn:
            for one in typed, conn:
                await one.send(text)
                await one.send(text)
            assert await typed.receive() == expected
            assert [await conn.receive(kind), await conn.receive(kind)] == [expected] * 2


@pytest.mark.parametrize("kind", [int, list[Join], 5, Join("no class"), None | Join])
async def test_types_that_are_refused(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"message_type: .* is no type of messages"):
        connect("ws://localhost/", message_type=kind)
    async with echoing() as app, connect(f"ws://127.0.0.1:{app.port}/", codec=JSON) as conn:
        with pytest.raises(ConfigurationError, match=r"message_type: .* is no type of messages"):
            await conn.receive(kind)


async def test_a_timeout_is_no_type() -> None:
    async with echoing() as app, connect(f"ws://127.0.0.1:{app.port}/") as conn:
        with pytest.raises(ConfigurationError, match=r"write receive\(timeout=0\.5\)"):
            await conn.receive(0.5)  # type: ignore[call-overload]


def test_arguments_that_are_refused() -> None:
    for arguments, text in (
        ({"codec": "json"}, "codec must be a Codec"),
        ({"codec": JsonCodec}, r"write JsonCodec\(\)"),
        ({"codec": [JSON, JsonCodec()]}, "two codecs have the same name"),
        ({"codec": [JSON, MSGPACK], "subprotocols": ["json"]}, "add 'msgpack' to the subprotocols"),
        ({"codec": ProtobufCodec(), "message_type": Join}, "ProtobufCodec cannot read Join"),
        ({"message_type": Join | Point}, "Point needs a tag"),
    ):
        for function in connect, reconnecting:
            with pytest.raises(ConfigurationError, match=text):
                function("ws://localhost/", **arguments)


# -- the choice of the codec -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "client", "subprotocols", "agreed"),
    [
        ((JSON, MSGPACK, CBOR), [CBOR, MSGPACK], (), "msgpack"),
        ((JSON, MSGPACK), MSGPACK, (), "msgpack"),
        ((JSON, MSGPACK), [CBOR, MSGPACK], ["x", "cbor", "msgpack"], "msgpack"),
        (JSON, [JSON, MSGPACK], (), "json"),
        (None, [JSON, MSGPACK], (), None),
        (MSGPACK, MSGPACK, ["x"], None),
    ],
)
async def test_the_server_chooses_a_codec(server: Any, client: Any, subprotocols: Any, agreed: str | None) -> None:
    async with rooms(server) as url:
        async with connect(url, codec=client, message_type=Say | Join, subprotocols=subprotocols) as conn:
            assert conn.subprotocol == agreed
            await conn.send(Join("tea"))
            assert await conn.receive() == Say("tea")

        class Joining(MessageComponent):
            def on_open(self, conn: Connection) -> None:
                conn.send(Join("tea"))

            def on_message(self, conn: Connection, message: Say) -> None:
                conn.close(4000, message.text)

        done = await run_client(Joining(), url, codec=client, subprotocols=subprotocols)
        assert (done.subprotocol, done.close_reason) == (agreed, "tea")


# -- calls -------------------------------------------------------------------------------------------------------------


@every_codec
async def test_calls(codec: Codec) -> None:
    async with rooms() as url, connect(url, codec=codec) as conn:
        assert await conn.call("add", {"a": 1, "b": 2}) == 3
        assert await conn.call("add", [1], result_type=int) == 1
        with pytest.raises(InvalidMessage) as wrong:
            await conn.call("add", [1], result_type=str)
        assert wrong.value.path == "$.result"
        with pytest.raises(CallError, match="no: never"):
            await conn.call("fail")
        with pytest.raises(CallError, match="unknown_method"):
            await conn.call("nothing")


async def test_a_late_reply_is_dropped() -> None:
    async with rooms(component=Silent()) as url, connect(url, codec=JSON) as conn:
        with pytest.raises(CallTimeout, match="'nothing' within 0 seconds"):
            await conn.call("nothing", timeout=0)
        assert await conn.call("late") == "in time"
        with pytest.raises(TimeoutError):
            await conn.receive(timeout=0)


async def test_the_end_of_the_connection_fails_calls() -> None:
    async with rooms() as url, connect(url, codec=JSON) as conn:
        with pytest.raises(ConnectionClosed) as caught:
            await conn.call("end", [4000], timeout=None)
        assert caught.value.code == 4000


async def test_closing_fails_calls() -> None:
    async with rooms(component=Silent()) as url, connect(url, codec=JSON) as conn, anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(ConnectionClosed):
                await conn.call("nothing", timeout=None)

        tasks.start_soon(call)
        await until_blocked()
        await conn.close()
        with pytest.raises(ConnectionClosed):
            await conn.call("nothing")


@pytest.mark.parametrize("max_queue", [1, 16])
@pytest.mark.parametrize("count", [1, 15, 16, 40, 250])
async def test_messages_before_a_reply_stay_in_order(count: int, max_queue: int) -> None:
    """The reply passes messages that nobody receives, also when the inbox was full before the call."""
    async with rooms() as url, connect(url, message_type=Say, options=Options(max_queue=max_queue)) as conn:
        assert await conn.call("flood", [count], result_type=str) == "done"
        received = [await conn.receive() for _ in range(count // 2)]
        assert await conn.call("add", [1]) == 1
        received += [await conn.receive() for _ in range(count - len(received))]
        assert received == [Say(str(number)) for number in range(count)]
        with pytest.raises(TimeoutError):
            await conn.receive(timeout=0)


async def test_messages_before_a_reply_are_bounded() -> None:
    options, count = Options(max_queue=4, max_call_queue=8), 3000
    async with rooms() as url, connect(url, message_type=Say, options=options) as conn:
        conn.send({"method": "flood", "params": [count]})
        conn.send({"type": "echo", "value": "x" * 1_000_000})  # so that the reply comes in a later read
        with pytest.raises(CallTimeout):
            await conn.call("add", [1], timeout=0.3)
        assert len(conn._inbox._messages) < count
        assert [await conn.receive() for _ in range(count)] == [Say(str(number)) for number in range(count)]
        assert len(await conn.receive(str)) == 1_000_000
        assert await conn.call("add", [2]) == 2  # the late reply before it was dropped


async def test_calls_while_another_task_receives() -> None:
    received: list[Say] = []
    async with rooms() as url, connect(url, message_type=Say) as conn, anyio.create_task_group() as tasks:

        async def receive() -> None:
            async for message in conn:
                received.append(message)  # noqa: PERF401 - a comprehension would add them at the end only

        async def call(number: int) -> None:
            assert await conn.call("add", [number, number]) == 2 * number
            assert await conn.call("flood", [100]) == "done"

        tasks.start_soon(receive)
        async with anyio.create_task_group() as calls:
            for number in range(10):
                calls.start_soon(call, number)
        while len(received) < 1000:
            await anyio.lowlevel.checkpoint()
        await conn.close()
    assert received == [Say(str(number)) for _ in range(10) for number in range(100)]


async def test_too_many_calls_wait() -> None:
    options = Options(max_pending_calls=1)
    async with (
        rooms(component=Silent()) as url,
        connect(url, codec=JSON, options=options) as conn,
        anyio.create_task_group() as tasks,
    ):

        async def call() -> None:
            with pytest.raises(ConnectionClosed):
                await conn.call("nothing")

        tasks.start_soon(call)
        await until_blocked()
        with pytest.raises(CallError, match="too_many_calls"):
            await conn.call("add", [1])
        await conn.close()


# -- reconnecting ------------------------------------------------------------------------------------------------------


async def test_each_connection_of_a_loop_is_typed() -> None:
    results: list[Any] = []
    async with rooms() as url:
        async for conn in reconnecting(url, codec=[MSGPACK, JSON], message_type=Join | Say, backoff=QUICK):
            async with conn:
                results.append(await conn.call("add", [len(results)], result_type=int))
                await conn.send(Join("tea"))
                async for message in conn:
                    results.append(message)
                    if message == Join("tea"):
                        break
                if len(results) == 3:
                    with pytest.raises(ConnectionClosed):
                        await conn.call("end", [4000])
                    continue
                assert (conn.subprotocol, len(results)) == ("json", 6)
                break
    assert results == [0, Say("tea"), Join("tea"), 3, Say("tea"), Join("tea")]


async def test_a_call_to_a_lost_server_ends_a_block() -> None:
    attempts = 0
    async with rooms() as url:
        async for conn in reconnecting(url, codec=JSON, backoff=QUICK):
            attempts += 1
            async with conn:
                await conn.call("end", [4000 if attempts == 1 else 1000])
                pytest.fail("the call was answered")
    assert attempts == 2
