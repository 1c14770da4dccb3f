"""`Connection[State]` is for type checkers: it names the attributes of `state`, and changes nothing at run time."""

from __future__ import annotations

import typing
from typing import Any

from support.serving import Pipe

from pywsapp import Connection, EchoServer


class ChatState:
    """What the connections of a chat have in `state`."""

    name: str


def test_a_connection_can_be_subscripted() -> None:
    conn: Connection[ChatState] = Pipe(EchoServer()).conn
    conn.state.name = "Ana"
    assert conn.state.name == "Ana"
    alias: Any = Connection[ChatState]
    assert typing.get_origin(alias) is Connection
    assert typing.get_args(alias) == (ChatState,)


def test_a_plain_connection_has_any_state() -> None:
    conn = Pipe(EchoServer()).conn
    conn.state.anything = 1
    typed: Connection[ChatState] = conn
    assert typed is conn
