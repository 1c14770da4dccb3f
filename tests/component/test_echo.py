from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import pytest

from pywsapp._lifecycle.host import Host
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._outbox.outbox import Flusher
from pywsapp._protocol.events import Ended
from pywsapp._protocol.websocket import WebSocket
from pywsapp._transports.base import Transport
from pywsapp.close_codes import CloseCode
from pywsapp.component import EchoServer, MessageComponent
from pywsapp.connection import Connection
from pywsapp.http import Request
from pywsapp.options import Options


class Memory(Flusher):
    """A transport that collects the written bytes, and a host that lets the test flush and has no tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.flusher: Flusher = self

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.written += pieces

    def schedule(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def disconnected(self, connection: Any) -> None: ...
    def discard(self, connection: Any) -> None: ...

    def start_soon(self, work: Callable[[], Awaitable[None]]) -> None:
        raise AssertionError("an echo needs no task")

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def answers(component: MessageComponent, *messages: str | bytes) -> list[Any]:
    """Send messages to a component over a WebSocket, and return what the client receives."""
    memory, options = Memory(), Options()
    transport, host = cast("Transport", memory), cast("Host", memory)
    client, server = WebSocket(client=True, options=options), WebSocket(client=False, options=options)
    lifecycle = Lifecycle(component, Request(), server, transport, options, host)
    lifecycle.open(b"")
    for message in messages:
        lifecycle.data_received(client.encode(message))
    lifecycle.machine.outbox.flush()
    return client.receive(b"".join(memory.written))


@pytest.mark.parametrize("message", ["", "hello ☀", b"", b"\xff\x00"], ids=repr)
def test_a_message_comes_back_once_with_its_type(message: str | bytes) -> None:  # Ratchet's EchoServer 1
    [answer] = answers(EchoServer(), message)
    assert answer == message
    assert type(answer) is type(message)


def test_messages_come_back_in_order() -> None:
    assert answers(EchoServer(), "1", b"2", "3") == ["1", b"2", "3"]


def test_an_error_closes_the_connection_once() -> None:  # Ratchet's EchoServer 2
    class Broken(EchoServer):
        def on_message(self, conn: Connection, message: Any) -> None:
            raise LookupError(message)

    [ended] = answers(Broken(), "1", "2")
    assert isinstance(ended, Ended)
    assert ended.code == CloseCode.INTERNAL_ERROR
