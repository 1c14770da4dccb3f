"""Calls of the server to its client: `await conn.call("confirm")`."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD, Recorder
from support.typed import Join, Point, talking

from pywsapp import (
    App,
    CallError,
    CallTimeout,
    ConfigurationError,
    Connection,
    ConnectionClosed,
    InvalidMessage,
    MessageComponent,
    Options,
    on,
)
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec

pytestmark = pytest.mark.anyio
every_codec = pytest.mark.parametrize(
    "codec", [JsonCodec(), MessagePackCodec(), CborCodec()], ids=lambda codec: codec.name
)


class Asking(Recorder):
    """Calls its client for each message, and records what comes of it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options

    async def on_message(self, conn: Connection, message: dict[str, Any]) -> None:
        try:
            reply = await conn.call("confirm", message, **self._options)
        except Exception as exc:
            self.record("failed", type(exc), exc)
            raise
        self.record("reply", reply)
        conn.send({"done": message})

    def on_error(self, conn: Connection, exc: Exception) -> None: ...

    async def failure(self) -> Any:
        await self.until_called("failed")
        return next(call[1:] for call in self.calls if call[0] == "failed")


@every_codec
async def test_a_handler_awaits_a_reply(codec: Codec) -> None:
    component = Asking()
    async with talking(component, codec) as client:
        assert await client.ask({"n": 1}) == {"id": 1, "method": "confirm", "params": {"n": 1}}
        assert await client.ask({"id": 1, "result": [True]}) == {"done": {"n": 1}}
        assert await client.ask({"n": 2}) == {"id": 2, "method": "confirm", "params": {"n": 2}}
        assert await client.ask({"id": 2, "result": None}) == {"done": {"n": 2}}
        assert [call[1] for call in component.calls if call[0] == "reply"] == [[True], None]


async def test_the_result_is_validated() -> None:
    component = Asking(result_type=Point)
    async with talking(component) as client:
        await client.ask({"n": 1})
        await client.ask({"id": 1, "result": {"x": 1, "y": 2}})
        assert component.calls[-1] == ("reply", Point(1, 2))
        await client.ask({"n": 2})
        await client.send({"id": 2, "result": {"x": "1"}})
        kind, exc = await component.failure()
        assert (kind, exc.path) == (InvalidMessage, "$.result.x")


@pytest.mark.parametrize(
    "error",
    [{"code": "no", "message": "never"}, "no", {"code": 1, "message": ["x"] * 10_000}, {}],
    ids=["object", "text", "long", "empty"],
)
async def test_the_client_answers_with_an_error(error: Any) -> None:
    component = Asking()
    async with talking(component) as client:
        await client.ask({"n": 1})
        await client.send({"id": 1, "error": error})
        kind, exc = await component.failure()
        assert kind is CallError
        assert len(str(exc)) < 1200
        if isinstance(error, dict) and error.get("code") == "no":
            assert (exc.code, exc.message) == ("no", "never")


async def test_a_late_reply_is_dropped() -> None:
    component = Asking(timeout=0.01)
    async with talking(component, options=Options(max_invalid_messages=1)) as client:
        await client.ask({"n": 1})
        kind, exc = await component.failure()
        assert kind is CallTimeout
        assert isinstance(exc, TimeoutError)
        assert "confirm" in str(exc)
        component._options = {}
        await client.send({"id": 1, "result": 1})
        assert (await client.ask({"n": 2}))["params"] == {"n": 2}
        await client.send({"id": 1, "result": 1})
        assert await client.ask({"id": 2, "result": 1}) == {"done": {"n": 2}}


@pytest.mark.parametrize("ending", ["close frame", "reset", "server"])
async def test_the_end_of_the_connection_fails_a_call(ending: str) -> None:
    component = Asking(timeout=None)
    async with talking(component) as client:
        await client.ask({"n": 1})
        if ending == "close frame":
            assert await client.client.close(1000) == 1000
        elif ending == "reset":
            await client.client.reset()
        else:
            component.conns[0].close(1000)
        kind, _ = await component.failure()
        assert kind is ConnectionClosed
        if ending == "server":
            await client.client.close(1000)
        await component.until_called("close")


async def test_a_call_on_a_closed_connection_fails_at_once() -> None:
    class Closing(Asking):
        async def on_message(self, conn: Connection, message: dict[str, Any]) -> None:
            conn.close()
            await super().on_message(conn, message)

    component = Closing()
    async with talking(component) as client:
        await client.send({})
        assert (await component.failure())[0] is ConnectionClosed


async def test_too_many_calls_wait() -> None:
    component = Asking(timeout=None)

    class Many(Asking):
        async def on_message(self, conn: Connection, message: dict[str, Any]) -> None:
            with anyio.fail_after(GUARD):
                async with anyio.create_task_group() as tasks:
                    for _ in range(2):
                        tasks.start_soon(super().on_message, conn, message)
                    await anyio.lowlevel.checkpoint()
                    await anyio.lowlevel.checkpoint()
                    with pytest.raises(CallError, match="too_many_calls"):
                        await conn.call("more")

    component = Many(timeout=None)
    async with talking(component, options=Options(max_pending_calls=2)) as client:
        await client.ask({"n": 1})
        await client.receive()
        await client.send({"id": 2, "result": "two"}, {"id": 1, "result": "one"})
        await component.until_called("reply", 2)
        assert sorted(call[1] for call in component.calls if call[0] == "reply") == ["one", "two"]


@pytest.mark.parametrize("max_queue", [1, 16])
@pytest.mark.parametrize("before", [0, 1, 15, 40, 200])
async def test_a_reply_passes_the_messages_before_it(before: int, max_queue: int) -> None:
    """The reply is read although the queue of the handler is full, and the messages keep their order."""
    component = Asking()
    async with talking(component, options=Options(max_queue=max_queue)) as client:
        await client.ask({"n": 0})
        messages = [{"n": number} for number in range(1, before + 1)]
        await client.send(*messages, {"id": 1, "result": True})
        assert await client.receive() == {"done": {"n": 0}}
        for number, message in enumerate(messages, 2):
            assert await client.receive() == {"id": number, "method": "confirm", "params": message}
            await client.send({"id": number, "result": True})
            assert await client.receive() == {"done": message}


async def test_messages_before_a_reply_are_bounded() -> None:
    """Behind too many messages a reply is not read, so that a client cannot fill the memory; the call ends in time."""
    component = Asking(timeout=0.3)
    async with talking(component, options=Options(max_queue=4, max_call_queue=8)) as client:
        await client.ask({"n": 0})
        await client.send(*[{"n": number} for number in range(1, 51)], {"id": 1, "result": True})
        assert (await component.failure())[0] is CallTimeout  # though the reply has arrived


async def test_a_task_beside_the_handlers_can_call() -> None:
    class Rooms(MessageComponent):
        @on("join")
        def joined(self, conn: Connection, message: Join) -> None:
            conn.send({"joined": message.room})

    component, conns, replies = Rooms(), [], []

    class Opening(Rooms):
        def on_open(self, conn: Connection) -> None:
            conns.append(conn)

    component = Opening()
    async with talking(component) as client, anyio.create_task_group() as tasks:
        await client.ask({"type": "join", "room": "a"})

        async def call() -> None:
            replies.append(await conns[0].call("ping", [1]))

        tasks.start_soon(call)
        assert await client.receive() == {"id": 1, "method": "ping", "params": [1]}
        assert await client.ask({"type": "join", "room": "b"}) == {"joined": "b"}
        await client.send({"id": 1, "result": "pong"})
        assert await client.ask({"type": "join", "room": "c"}) == {"joined": "c"}
        with anyio.fail_after(GUARD):
            while not replies:
                await anyio.lowlevel.checkpoint()
        assert replies == ["pong"]


async def test_a_component_of_plain_messages_cannot_call(caplog: pytest.LogCaptureFixture) -> None:
    class Plain(MessageComponent):
        async def on_message(self, conn: Connection, message: str) -> None:
            await conn.call("confirm")

    for codec in (None, JsonCodec()):
        async with talking(Plain(), codec) as client:
            await client.send({})
            assert await client.closed() == 1011
    assert caplog.text.count("ConfigurationError: conn.call needs a component with typed messages") == 2


def test_a_mistake_of_the_type_is_found_before_the_call() -> None:
    assert issubclass(CallTimeout, TimeoutError)
    with pytest.raises(ConfigurationError):
        App(codec=JsonCodec)  # type: ignore[arg-type]
