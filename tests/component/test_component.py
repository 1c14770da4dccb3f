"""Instances and factories, what on_handshake returns, and the examples of the guide."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.serving import GUARD, Recorder, serving

from pywsapp._hooks import as_accept, check_component, make_component
from pywsapp.component import Accept, MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request
from pywsapp.middleware.base import HandshakeMiddleware
from pywsapp.options import Options

pytestmark = pytest.mark.anyio


# -- instances and factories -------------------------------------------------------------------------------------------


class Counting(Recorder):
    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1

    def on_message(self, conn: Connection, message: Any) -> None:
        conn.send(f"{len(self.conns)}")


async def test_one_instance_serves_all_connections() -> None:
    async with serving(Counting()) as server, server.client(), server.client() as second:
        await second.send("how many?")
        assert await second.message() == "2"


@pytest.mark.parametrize("how", ["class", "function", "partial"])
async def test_a_factory_makes_one_for_each_connection(how: str) -> None:
    class Own(Counting):
        made = 0

    factories: dict[str, Callable[[], MessageComponent]] = {
        "class": Own,
        "function": lambda: Own(),
        "partial": functools.partial(Own),
    }
    assert check_component(factories[how]) is factories[how]
    async with (
        serving(HandshakeMiddleware(factories[how])) as server,
        server.client() as first,
        server.client() as second,
    ):
        for client in (first, second):
            await client.send("how many?")
            assert await client.message() == "1"
    assert Own.made == 2


async def test_a_factory_that_fails_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(HandshakeMiddleware(lambda: object())) as server, server.client(expected=500):  # type: ignore[arg-type,return-value]
        pass
    [record] = caplog.records
    assert record.exc_info is not None
    assert "must return a MessageComponent, but returned <object" in str(record.exc_info[1])


def test_an_instance_is_its_own_factory() -> None:
    component = Recorder()
    assert make_component(component) is component
    assert type(make_component(Recorder)) is Recorder


class Wrong:
    """No component."""


@pytest.mark.parametrize(
    ("component", "text"),
    [
        (Wrong, "Wrong must be a subclass of MessageComponent"),
        ("chat", "a route needs a MessageComponent .*, not 'chat'"),
        (None, "a route needs a MessageComponent .*, not None"),
    ],
)
def test_an_invalid_component(component: object, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        check_component(component)


@pytest.mark.parametrize("instance", [True, False], ids=["instance", "class"])
@pytest.mark.parametrize(
    ("name", "handler", "wanted"),
    [
        ("on_open", lambda self: None, "self, conn"),
        ("on_message", lambda self, conn: None, "self, conn, message"),
        pytest.param("on_message", lambda self, conn, message, more: None, "self, conn, message", id="one too many"),
        ("on_close", lambda self, conn, code, reason: None, "self, conn"),
        ("on_error", lambda self, exc: None, "self, conn, exc"),
        ("on_handshake", lambda self: None, "self, request"),
        ("on_request", lambda self, conn, request: None, "self, request"),
    ],
)
def test_wrong_arguments_are_found_before_the_first_connection(
    name: str, handler: Any, wanted: str, instance: bool
) -> None:
    kind = type("Chat", (MessageComponent,), {name: handler})
    with pytest.raises(ConfigurationError, match=rf"Chat\.{name} must take \({wanted}\)"):
        check_component(kind() if instance else kind)


def test_arguments_can_have_other_names_and_defaults() -> None:
    class Fine(MessageComponent):
        def on_open(self, c: Connection, more: int = 1) -> None: ...
        def on_message(self, *arguments: Any) -> None: ...
        @staticmethod
        def on_close(conn: Connection) -> None: ...

    component = Fine()
    assert check_component(component) is component


# -- what on_handshake answers -----------------------------------------------------------------------------------------


def test_answers_of_on_handshake() -> None:
    component, other = Recorder(), Recorder()
    assert as_accept(None, component) == Accept(component=component)
    assert as_accept("chat.v2", component) == Accept(component=component, subprotocol="chat.v2")
    assert as_accept(Accept(headers=(("a", "b"),)), component) == Accept(component=component, headers=(("a", "b"),))
    assert as_accept(Accept(component=other), component) == Accept(component=other)
    with pytest.raises(
        TypeError, match=r"Recorder.on_handshake must return None, a subprotocol or an Accept, not True"
    ):
        as_accept(True, component)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_a_handshake_can_choose_another_component(kind: str) -> None:
    inner = Recorder()

    class Outer(Recorder):
        def on_handshake(self, request: Request) -> Any:
            self.record("handshake")
            accept = Accept(component=inner, options=Options(max_message_size=3))
            return self.later(accept) if kind == "async" else accept

        async def later(self, accept: Accept) -> Accept:
            await anyio.lowlevel.checkpoint()
            return accept

    outer = Outer()
    async with serving(outer) as server, server.client() as client:
        await client.send("123", "1234")
        assert await client.receive_close() == 1009
        await inner.until_called("close")
    assert outer.calls == [("handshake",)]
    assert inner.names() == ["open", "message", "close"]


async def test_a_wrong_handshake_answer_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Recorder):
        def on_handshake(self, request: Request) -> Any:
            return {"subprotocol": "chat"}

    component = Wrong()
    async with serving(component) as server, server.client(expected=500):
        pass
    assert component.calls == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_plain_request_is_answered_with_426() -> None:
    component = Recorder()
    async with serving(component) as server, await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with anyio.fail_after(GUARD):
            answer = await stream.receive()
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nupgrade: websocket\r\n" in answer.lower()
    assert component.calls == []


def test_refuse_needs_a_status_that_refuses() -> None:
    with pytest.raises(ConfigurationError, match="Refuse takes an HTTP status from 300 to 599, not 200"):
        Refuse(200)


# -- the guide ---------------------------------------------------------------------------------------------------------


DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.mark.parametrize("page", ["reference/component.md", "howto/handle-slow-clients.md"])
def test_the_examples_of_the_guide_run(page: str) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        namespace: dict[str, Any] = {"__name__": "example"}
        exec(compile(example, page, "exec"), namespace)
        for component in [value for value in namespace.values() if isinstance(value, type)]:
            if component.__module__ == "example":
                check_component(component)


async def test_the_first_example_of_the_guide_does_what_it_says() -> None:
    namespace: dict[str, Any] = {"__name__": "example"}
    page = (DOCS / "reference/component.md").read_text()
    example = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert example is not None
    exec(compile(example[1], "component.md", "exec"), namespace)
    async with serving(namespace["Notes"]()) as server, server.client() as client:
        await client.send("milk", b"bread")
        assert await client.message() == "1 notes"
        assert await client.message() == "2 notes"
        assert await client.close() == 1000
