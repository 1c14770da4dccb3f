"""Middleware: which hooks reach the component inside, and how a check decides."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import serving

from pywsapp import (
    Accept,
    ComponentMiddleware,
    HandshakeMiddleware,
    IpBlackList,
    MessageComponent,
    Refuse,
    Request,
    Response,
    in_thread,
)
from pywsapp.component import ComponentFactory, HandshakeAnswer
from pywsapp.exceptions import ConfigurationError

CONN: Any = object()
TOPIC: Any = object()


class Recorder(MessageComponent):
    subprotocols = ("v1",)

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def on_handshake(self, request: Request) -> HandshakeAnswer | Awaitable[HandshakeAnswer]:
        self.calls.append(("on_handshake", request))
        return None

    def on_open(self, conn: Any) -> str:
        self.calls.append(("on_open", conn))
        return "opened"

    def on_message(self, conn: Any, message: Any) -> str:
        self.calls.append(("on_message", conn, message))
        return "taken"

    def on_close(self, conn: Any) -> str:
        self.calls.append(("on_close", conn))
        return "closed"

    def on_error(self, conn: Any, exc: Exception) -> str:
        self.calls.append(("on_error", conn, exc))
        return "settled"

    def on_subscribe(self, conn: Any, topic: Any) -> str:
        self.calls.append(("on_subscribe", conn, topic))
        return "subscribed"

    def on_unsubscribe(self, conn: Any, topic: Any) -> str:
        self.calls.append(("on_unsubscribe", conn, topic))
        return "unsubscribed"

    def on_request(self, request: Request) -> Response:
        return Response("plain")


class Shouting(ComponentMiddleware):
    def __init__(self, component: MessageComponent | ComponentFactory) -> None:
        super().__init__(component)
        self.seen: list[str] = []

    def on_message(self, conn: Any, message: Any) -> Any:
        self.seen.append(message)
        return self.inner.on_message(conn, message.upper())


class Refusing(HandshakeMiddleware):
    def check(self, request: Request) -> None:
        raise Refuse(403)


def accepted(component: MessageComponent) -> Accept:
    answer = component.on_handshake(Request())
    assert isinstance(answer, Accept)
    assert answer.component is not None
    return answer


def test_everything_passes_through_with_its_result() -> None:
    recorder = Recorder()
    around = accepted(ComponentMiddleware(recorder)).component
    assert around is not None
    error = ValueError()
    assert around.on_open(CONN) == "opened"
    assert around.on_message(CONN, "hi") == "taken"
    assert around.on_error(CONN, error) == "settled"
    assert around.on_subscribe(CONN, TOPIC) == "subscribed"
    assert around.on_unsubscribe(CONN, TOPIC) == "unsubscribed"
    assert around.on_close(CONN) == "closed"
    assert [call[0] for call in recorder.calls] == [
        "on_handshake",
        "on_open",
        "on_message",
        "on_error",
        "on_subscribe",
        "on_unsubscribe",
        "on_close",
    ]
    assert all(call[1] is CONN for call in recorder.calls[1:])


def test_an_override_stands_in_between() -> None:
    recorder, shouting = Recorder(), Shouting(Recorder())
    shouting.component = recorder
    around = accepted(shouting).component
    assert around is not None
    around.on_message(CONN, "hi")
    assert recorder.calls[-1] == ("on_message", CONN, "HI")
    assert shouting.seen == ["hi"]


def test_what_is_inside_decides_at_the_handshake() -> None:
    with pytest.raises(Refuse, match="403"):
        Shouting(Refusing(Recorder())).on_handshake(Request())


def test_a_component_inside_a_handshake_middleware_is_reached() -> None:
    recorder = Recorder()
    around = accepted(Shouting(HandshakeMiddleware(recorder))).component
    assert around is not None
    around.on_message(CONN, "hi")
    assert recorder.calls[-1] == ("on_message", CONN, "HI")


def test_middleware_can_be_stacked() -> None:
    recorder = Recorder()
    inner, outer = Shouting(recorder), Shouting(Recorder)
    outer.component = inner
    around = accepted(outer).component
    assert around is not None
    around.on_message(CONN, "hi")
    assert (outer.seen, inner.seen) == (["hi"], ["HI"])


def test_a_class_makes_a_component_for_each_connection() -> None:
    shouting = Shouting(Recorder)
    one, two = accepted(shouting).component, accepted(shouting).component
    assert isinstance(one, Shouting)
    assert isinstance(two, Shouting)
    assert one.inner is not two.inner


def test_the_subprotocols_are_those_of_the_component_inside() -> None:
    assert accepted(Shouting(Recorder())).subprotocols == ("v1",)


def test_a_handshake_middleware_has_no_part_in_the_connection() -> None:
    recorder = Recorder()
    assert accepted(HandshakeMiddleware(recorder)).component is recorder


def test_plain_requests_are_checked_too() -> None:
    with pytest.raises(Refuse, match="403"):
        Refusing(Recorder()).on_request(Request())
    assert isinstance(HandshakeMiddleware(Recorder()).on_request(Request()), Response)


def test_an_async_handshake_is_awaited() -> None:
    class Slow(Recorder):
        async def on_handshake(self, request: Request) -> HandshakeAnswer:
            return "v1"

    answer = Shouting(Slow()).on_handshake(Request())
    assert isinstance(answer, Awaitable)
    with pytest.raises(StopIteration) as caught:
        answer.__await__().send(None)
    assert isinstance(caught.value.value.component, Shouting)
    assert caught.value.value.subprotocol == "v1"


def test_only_components_can_be_inside() -> None:
    with pytest.raises(ConfigurationError, match="MessageComponent"):
        ComponentMiddleware("chat")  # type: ignore[arg-type]


# -- checks of every kind ----------------------------------------------------------------------------------------------


class AsyncCheck(HandshakeMiddleware):
    """Refuses every handshake but those with a ticket."""

    async def check(self, request: Request) -> None:
        await anyio.lowlevel.checkpoint()
        if request.query_string != "ticket":
            raise Refuse(403, body="no ticket")


class ThreadCheck(HandshakeMiddleware):
    @in_thread
    def check(self, request: Request) -> None:
        if request.query_string != "ticket":
            raise Refuse(403, body="no ticket")


class AsyncIpFilter(IpBlackList):
    async def check(self, request: Request) -> None:
        await anyio.lowlevel.checkpoint()
        super().check(request)


class AsyncAround(ComponentMiddleware):
    async def check(self, request: Request) -> None:
        await AsyncCheck(self.component).check(request)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [AsyncCheck, ThreadCheck, AsyncAround])
async def test_a_check_that_waits_decides(kind: type[HandshakeMiddleware]) -> None:
    recorder = Recorder()
    async with serving(kind(recorder)) as server:
        async with server.client("/?ticket") as client:
            await client.send("hi")
            await client.close()
        async with server.client("/", expected=403):
            pass
    assert [call[0] for call in recorder.calls] == ["on_handshake", "on_open", "on_message", "on_close"]


@pytest.mark.anyio
async def test_an_async_handshake_after_an_async_check_is_awaited() -> None:
    class Slow(Recorder):
        async def on_handshake(self, request: Request) -> HandshakeAnswer:
            await anyio.lowlevel.checkpoint()
            return "v1"

    answer = AsyncCheck(Slow()).on_handshake(Request(query_string="ticket"))
    assert isinstance(answer, Awaitable)
    assert (await answer).subprotocol == "v1"


@pytest.mark.anyio
async def test_an_async_check_decides_about_plain_requests_too() -> None:
    component = AsyncIpFilter(Recorder(), ["192.0.2.1"])
    refused = component.on_request(Request(remote_address="192.0.2.1"))
    assert isinstance(refused, Awaitable)
    with pytest.raises(Refuse, match="403"):
        await refused
    answered = component.on_request(Request(remote_address="192.0.2.2"))
    assert isinstance(answered, Awaitable)
    assert (await answered).body == b"plain"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    "result", [False, True, "403", Refuse(403), Response("no")], ids=["False", "True", "text", "Refuse", "Response"]
)
async def test_a_check_that_returns_something_fails_the_handshake(
    kind: str, result: object, caplog: pytest.LogCaptureFixture
) -> None:
    class Returning(HandshakeMiddleware):
        def check(self, request: Request) -> Any:
            return self.later() if kind == "async def" else result

        async def later(self) -> object:
            return result

    recorder = Recorder()
    async with serving(Returning(recorder)) as server, server.client(expected=500):
        pass
    assert recorder.calls == []
    [record] = caplog.records
    assert record.exc_info is not None
    assert "raise Refuse(403) to refuse a request, and return nothing to accept it" in str(record.exc_info[1])
