"""Components around components: what passes through, and who sees what."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from pywsapp import Accept, ComponentMiddleware, HandshakeMiddleware, MessageComponent, Refuse, Request, Response
from pywsapp.component import ComponentFactory, HandshakeAnswer
from pywsapp.exceptions import ConfigurationError

CONN: Any = object()


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

    def on_request(self, request: Request) -> Response:
        return Response("plain")


class Loud(ComponentMiddleware):
    def __init__(self, component: MessageComponent | ComponentFactory) -> None:
        super().__init__(component)
        self.heard: list[str] = []

    def on_message(self, conn: Any, message: Any) -> Any:
        self.heard.append(message)
        return self.inner.on_message(conn, message.upper())


class Closed(HandshakeMiddleware):
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
    assert around.on_close(CONN) == "closed"
    assert [call[0] for call in recorder.calls] == ["on_handshake", "on_open", "on_message", "on_error", "on_close"]
    assert all(call[1] is CONN for call in recorder.calls[1:])


def test_an_override_stands_in_between() -> None:
    recorder, loud = Recorder(), Loud(Recorder())
    loud.component = recorder
    around = accepted(loud).component
    assert around is not None
    around.on_message(CONN, "hi")
    assert recorder.calls[-1] == ("on_message", CONN, "HI")
    assert loud.heard == ["hi"]


def test_what_is_inside_decides_at_the_handshake() -> None:
    with pytest.raises(Refuse, match="403"):
        Loud(Closed(Recorder())).on_handshake(Request())


def test_a_component_behind_a_handover_is_reached() -> None:
    recorder = Recorder()
    around = accepted(Loud(HandshakeMiddleware(recorder))).component
    assert around is not None
    around.on_message(CONN, "hi")
    assert recorder.calls[-1] == ("on_message", CONN, "HI")


def test_decorators_stack() -> None:
    recorder = Recorder()
    inner, outer = Loud(recorder), Loud(Recorder)
    outer.component = inner
    around = accepted(outer).component
    assert around is not None
    around.on_message(CONN, "hi")
    assert (outer.heard, inner.heard) == (["hi"], ["HI"])


def test_a_class_makes_a_component_for_each_connection() -> None:
    loud = Loud(Recorder)
    one, two = accepted(loud).component, accepted(loud).component
    assert isinstance(one, Loud)
    assert isinstance(two, Loud)
    assert one.inner is not two.inner


def test_the_subprotocols_are_those_of_the_component_inside() -> None:
    assert accepted(Loud(Recorder())).subprotocols == ("v1",)


def test_a_decorator_that_only_checks_is_gone_after_the_handshake() -> None:
    recorder = Recorder()
    assert accepted(HandshakeMiddleware(recorder)).component is recorder


def test_plain_requests_pass_through() -> None:
    assert isinstance(Closed(Recorder()).on_request(Request()), Response)


def test_an_async_handshake_is_awaited() -> None:
    class Slow(Recorder):
        async def on_handshake(self, request: Request) -> HandshakeAnswer:
            return "v1"

    answer = Loud(Slow()).on_handshake(Request())
    assert isinstance(answer, Awaitable)
    with pytest.raises(StopIteration) as caught:
        answer.__await__().send(None)
    assert isinstance(caught.value.value.component, Loud)
    assert caught.value.value.subprotocol == "v1"


def test_only_components_can_be_decorated() -> None:
    with pytest.raises(ConfigurationError, match="MessageComponent"):
        ComponentMiddleware("chat")  # type: ignore[arg-type]
