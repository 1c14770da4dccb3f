"""Procedures that clients call: `@rpc`."""

from __future__ import annotations

from typing import Any

import anyio.lowlevel
import pytest
from support.typed import Join, Login, Point, Say, talking

from pywsapp import App, CallError, ConfigurationError, Connection, MessageComponent, on, rpc
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec

pytestmark = pytest.mark.anyio
every_codec = pytest.mark.parametrize(
    "codec", [JsonCodec(), MessagePackCodec(), CborCodec()], ids=lambda codec: codec.name
)


class Calculator(MessageComponent):
    @rpc
    def add(self, conn: Connection, a: int, b: int = 10) -> int:
        return a + b

    @rpc("math.half")
    async def half(self, conn: Connection, number: float) -> float:
        await anyio.lowlevel.checkpoint()
        return number / 2

    @rpc
    def move(self, conn: Connection, point: Point, by: int) -> Point:
        return Point(point.x + by, point.y + by)

    @rpc
    def greet(self, conn: Connection, user: Login) -> Login:
        return Login(name=f"Dr. {user.name}")

    @rpc
    def find(self, conn: Connection, name: str) -> None:
        raise CallError("not_found", f"there is no {name}")

    @rpc
    def nothing(self, conn: Connection) -> None: ...

    @rpc
    async def fail(self, conn: Connection) -> None:
        raise RuntimeError("a secret")

    @rpc
    def strange(self, conn: Connection) -> object:
        return object()


class Chat(Calculator):
    @on("join")
    def joined(self, conn: Connection, message: Join) -> None:
        conn.send({"joined": message.room})


class Untagged(Calculator):
    def on_message(self, conn: Connection, message: Point) -> None:
        conn.send({"x": message.x})


class Tagged(Calculator):
    def on_message(self, conn: Connection, message: Join | Say) -> None:
        conn.send({"got": type(message).__name__})


@every_codec
async def test_the_result_is_answered(codec: Codec) -> None:
    async with talking(Calculator(), codec) as client:
        answer = await client.ask({"id": 7, "method": "add", "params": {"a": 1, "b": 2}})
        assert answer == {"id": 7, "result": 3}
        assert await client.ask({"id": "x", "method": "add", "params": [1, 2]}) == {"id": "x", "result": 3}
        assert await client.ask({"id": 0, "method": "add", "params": {"a": 1}}) == {"id": 0, "result": 11}
        assert await client.ask({"id": 1, "method": "math.half", "params": [5]}) == {"id": 1, "result": 2.5}
        assert await client.ask({"id": 2, "method": "nothing"}) == {"id": 2, "result": None}
        answer = await client.ask({"id": 3, "method": "move", "params": {"point": {"x": 1}, "by": 2}})
        assert answer == {"id": 3, "result": {"x": 3, "y": 2}}
        answer = await client.ask({"id": 4, "method": "greet", "params": {"user": {"name": "Ana"}}})
        assert answer == {"id": 4, "result": {"type": "login", "name": "Dr. Ana"}}


@every_codec
async def test_errors_are_answered(codec: Codec) -> None:
    async with talking(Calculator(), codec) as client:
        answer = await client.ask({"id": 1, "method": "find", "params": {"name": "room"}})
        assert answer == {"id": 1, "error": {"code": "not_found", "message": "there is no room"}}
        for params, path in [
            ({"a": "1", "b": 2}, "$.params.a"),
            ({}, "$.params"),
            ({"a": 1, "c": 2}, "$.params"),
            ([1, 2, 3], "$.params"),
            (3, "$.params"),
        ]:
            error = (await client.ask({"id": 2, "method": "add", "params": params}))["error"]
            assert (error["code"], error["path"]) == ("invalid_params", path)
        error = (await client.ask({"id": 3, "method": "__init__", "params": {}}))["error"]
        assert error["code"] == "unknown_method"
        for call_id in [True, 1.5, [1], "x" * 101]:
            answer = await client.ask({"id": call_id, "method": "add", "params": [1]})
            assert (answer["type"], answer["path"]) == ("error", "$.id")


async def test_an_exception_is_answered_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    async with talking(Calculator()) as client:
        answer = await client.ask({"id": 1, "method": "fail"})
        assert answer == {"id": 1, "error": {"code": "internal_error", "message": "the procedure failed"}}
        assert await client.closed() == 1011
    assert "a secret" in caplog.text


async def test_a_result_that_cannot_be_sent_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with talking(Calculator()) as client:
        answer = await client.ask({"id": 1, "method": "strange"})
        assert answer["error"]["code"] == "internal_error"
        assert await client.closed() == 1011
    assert "TypeError" in caplog.text


async def test_a_call_without_an_id_is_not_answered() -> None:
    async with talking(Calculator()) as client:
        await client.send({"method": "add", "params": [1, 2]}, {"id": 1, "method": "nothing"})
        assert await client.receive() == {"id": 1, "result": None}


@every_codec
async def test_procedures_beside_messages(codec: Codec) -> None:
    for component, message, answer in [
        (Chat(), {"type": "join", "room": "a"}, {"joined": "a"}),
        (Untagged(), {"x": 3}, {"x": 3}),
        (Tagged(), {"type": "say", "text": "hi"}, {"got": "Say"}),
    ]:
        async with talking(component, codec) as client:
            assert await client.ask(message) == answer
            assert await client.ask({"id": 1, "method": "add", "params": [1]}) == {"id": 1, "result": 11}


# -- mistakes ----------------------------------------------------------------------------------------------------------


def raw() -> type[MessageComponent]:
    class Raw(Calculator):
        def on_message(self, conn: Connection, message: str) -> None: ...

    return Raw


def many() -> type[MessageComponent]:
    class Many(MessageComponent):
        @rpc
        def add(self, conn: Connection, *numbers: int) -> int:
            return sum(numbers)

    return Many


def doubled() -> type[MessageComponent]:
    class Doubled(Calculator):
        @rpc("add")
        def plus(self, conn: Connection) -> None: ...

    return Doubled


def unreadable() -> type[MessageComponent]:
    class Unreadable(MessageComponent):
        @rpc
        def use(self, conn: Connection, function: NoSuchType) -> None: ...  # type: ignore[name-defined] # noqa: F821

    return Unreadable


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (raw, "Raw.on_message: beside procedures, `message` needs a type"),
        (many, "Many.add: a procedure has parameters with names, not *numbers"),
        (doubled, "Doubled.plus: another procedure has the name 'add' already"),
        (unreadable, "Unreadable.use: the annotation 'NoSuchType' cannot be read"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.__name__,
)
def test_mistakes_are_found_when_the_component_is_routed(make: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        App().route("/", make())
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["", "x" * 101, 3])
def test_a_name_is_a_text(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="the name of @rpc"):
        rpc(name)
