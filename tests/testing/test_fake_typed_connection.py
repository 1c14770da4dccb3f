"""`FakeConnection` for components with typed messages: objects are sent in the codec, texts are read by the types."""

from __future__ import annotations

from typing import Any

import pytest
from support.typed import Join, Say

from pywsapp import Connection, MessageComponent, on, rpc
from pywsapp.codecs import JsonCodec, MessagePackCodec
from pywsapp.testing import FakeConnection


class Chat(MessageComponent):
    @on("join")
    def joined(self, conn: Connection, message: Join) -> None:
        conn.send(Say(message.room))

    @rpc
    def add(self, conn: Connection, a: int, b: int) -> int:
        return a + b


def test_a_handler_sends_objects() -> None:
    conn = FakeConnection(codec=JsonCodec())
    Chat().joined(conn, Join("tea"))
    assert conn.sent_json == [{"type": "say", "text": "tea", "times": 1}]
    conn = FakeConnection(codec=MessagePackCodec())
    Chat().joined(conn, Join("tea"))
    assert MessagePackCodec().decode(conn.sent[0]) == {"type": "say", "text": "tea", "times": 1}


def test_texts_are_read_by_the_types_of_the_component() -> None:
    chat = Chat()
    conn = FakeConnection(component=chat)
    chat.on_message(conn, '{"type":"join","room":"tea"}')
    chat.on_message(conn, '{"id":1,"method":"add","params":[1,2]}')
    chat.on_message(conn, '{"type":"join"}')
    said, added, error = conn.sent_json
    assert (said["text"], added, error["code"]) == ("tea", {"id": 1, "result": 3}, "invalid_message")


def test_an_object_without_a_codec_raises_as_in_production() -> None:
    wrong: Any = {"a": 1}
    with pytest.raises(TypeError, match="codec=JsonCodec"):
        FakeConnection().send(wrong)
