"""A client of topics whose server breaks the protocol: clear errors, and nothing hangs or grows without a bound."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.client_servers import Server
from support.topics_server import Script, send, serving_topics

from pywsapp import CallError, CallTimeout, Connection, ConnectionClosed, HandshakeError, MessagesLost, Options
from pywsapp._connecting.topics.messages import BrokenProtocol, data_of, error_of, keys_of, read, size_of_user, users_of
from pywsapp.codecs import JsonCodec

pytestmark = pytest.mark.anyio
Answer = Callable[[Connection, dict[str, Any]], object]


def answers(**of_types: Any) -> Answer:
    """Return a function that answers requests of some types with a message; `ID` in it is the id of the request."""

    def answer(conn: Connection, fields: dict[str, Any]) -> object:
        if fields["type"] not in of_types:
            return None
        found = of_types[fields["type"]]
        text = found if isinstance(found, (str, bytes)) else json.dumps(found)
        conn.send(text.replace('"ID"', str(fields["id"])) if isinstance(text, str) else text)
        return "answered"

    return answer


BROKEN: dict[str, Any] = {
    "no JSON": "{",
    "binary": b"\0\xff",
    "no object": [],
    "no type": {},
    "a type that is a number": {"type": 5},
    "an id that is a text": {"type": "ok", "id": "1"},
    "an id that is true": {"type": "ok", "id": True},
    "an error without a code": {"type": "error", "id": "ID"},
    "a code that is a number": {"type": "error", "code": 5},
    "a pause that is negative": {"type": "error", "id": "ID", "code": "unavailable", "retry_after": -1},
    "a position that is a number": {"type": "message", "topic": "t", "position": 1, "data": 1},
    "a topic that is a number": {"type": "message", "topic": 1, "data": 1},
    "a message without data": {"type": "message", "topic": "t"},
    "bytes that are no base64": {"type": "message", "topic": "t", "base64": "ä"},
    "bytes that are a number": {"type": "message", "base64": 5},
    "joined that is a list": {"type": "presence", "topic": "t", "joined": []},
    "changed that is a text": {"type": "presence", "topic": "t", "changed": "a"},
    "left that is an object": {"type": "presence", "topic": "t", "left": {}},
    "left with numbers": {"type": "presence", "topic": "t", "left": [1]},
    "disconnect without reconnect": {"type": "disconnect", "code": 1001},
    "disconnect with true": {"type": "disconnect", "code": 1001, "reconnect": True},
    "disconnect with a negative number": {"type": "disconnect", "code": 1001, "reconnect": -1},
    "a subscription that was ended without a code": {"type": "unsubscribed", "topic": "t"},
    "deep nesting": '{"type":"message","data":' + "[" * 100_000 + "]" * 100_000 + "}",
}


async def test_broken_messages() -> None:
    def answer(conn: Connection, fields: dict[str, Any]) -> object:
        return answers(call=BROKEN[fields["method"]])(conn, fields) if fields["type"] == "call" else None

    async with serving_topics(Script(answer)) as server:
        for name in BROKEN:
            async with server.client() as topics, topics.subscribe("t", presence=True) as subscription:
                with pytest.raises(ConnectionClosed, match="the server broke the protocol of topics") as closed:
                    await topics.call(name)
                assert closed.value.code == 4002
                with pytest.raises(ConnectionClosed, match="the server broke the protocol"):
                    await subscription.receive()
                assert topics.state == "closed", name
            assert server.rooms.connections[-1].close_code == 4002


async def test_broken_replies_to_connect() -> None:
    replies: list[dict[str, Any]] = [
        {"type": "ok", "id": "ID"},
        {"type": "ok", "id": "ID", "client": 5, "ping": 1},
        {"type": "ok", "id": "ID", "client": "a", "user": 5},
        {"type": "error", "id": "ID"},
    ]
    async with serving_topics(Script(lambda conn, fields: answers(connect=replies.pop())(conn, fields))) as server:
        while replies:
            with pytest.raises(ConnectionClosed, match="the server broke the protocol"):
                async with server.client():
                    pass


async def test_unknown_types_and_fields_are_ignored() -> None:
    def answer(conn: Connection, fields: dict[str, Any]) -> None:
        for message in ({"type": "new"}, {"type": "pong", "more": 1}, {"type": "ok", "id": 10**30}, {"type": "ok"}):
            send(conn, message)
        send(conn, {"type": "message", "topic": "unknown", "data": 1})
        send(conn, {"type": "unsubscribed", "topic": "unknown", "code": "a"})

    async with serving_topics(Script(answer)) as server, server.client() as topics:
        assert await topics.call("any") is None


async def test_unknown_errors_reach_the_program() -> None:
    error = {"type": "error", "id": "ID", "code": "strange", "message": "x" * 10_000, "retry_after": 7.5}
    script = Script(answers(call=error, publish=error, subscribe=error | {"message": 5}))
    async with serving_topics(script) as server, server.client() as topics:
        for attempt in (topics.call("a"), topics.publish("a", 1), topics.subscribe("a").__aenter__()):
            with pytest.raises(CallError, match="strange") as failed:
                await attempt
            assert (failed.value.code, failed.value.retry_after) == ("strange", 7.5)
            assert len(failed.value.message) <= 1000
    refusing = Script(answers(connect=error))
    async with serving_topics(refusing) as server:
        with pytest.raises(CallError, match="strange"):
            async with server.client():
                pass


async def test_errors_without_a_request_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def answer(conn: Connection, fields: dict[str, Any]) -> None:
        for _ in range(50):
            send(conn, {"type": "error", "code": "bad\nnews", "message": "a"})

    async with serving_topics(Script(answer)) as server, server.client() as topics:
        await topics.call("any")
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(logged) == 1
    assert r"reports an error: bad\nnews" in logged[0]


async def test_a_message_that_is_too_large() -> None:
    def answer(conn: Connection, fields: dict[str, Any]) -> object:
        if fields["type"] == "call":
            send(conn, {"type": "message", "data": "x" * 5000})
        return None

    options = Options(max_message_size=1000)
    async with serving_topics(Script(answer)) as server, server.client(options=options) as topics:
        with pytest.raises(ConnectionClosed):
            await topics.call("any")
        with pytest.raises(ConnectionClosed, match=r"closed permanently: .* 1009"):
            await topics.call("any")


async def test_a_server_that_does_not_answer_connect() -> None:
    scope = anyio.CancelScope()

    def answer(conn: Connection, fields: dict[str, Any]) -> object:
        if len(script.connections) > 1:
            scope.cancel()
        return "silent"

    script = Script(answer)
    async with serving_topics(script) as server:
        with scope:
            async with server.client(options=Options(handshake_timeout=0.05, close_timeout=0.05)):
                pass
        assert scope.cancelled_caught


async def test_a_server_that_answers_no_request() -> None:
    def answer(conn: Connection, fields: dict[str, Any]) -> object:
        return None if fields["type"] in ("connect", "subscribe") else "silent"

    async with serving_topics(Script(answer)) as server, server.client() as topics:
        async with topics.subscribe("t") as subscription:
            with pytest.raises(CallTimeout):
                await topics.publish("t", 1, timeout=0.01)
            with pytest.raises(CallTimeout):
                await topics.call("t", timeout=0.01)
        assert not subscription.is_subscribed
        current = topics._driver._current
        assert current is not None
        assert set(current._replies) == set(current._leaving.values())


async def test_a_server_that_does_not_speak_the_protocol() -> None:
    async with serving_topics(Server()) as server:
        with pytest.raises((HandshakeError, ConnectionClosed), match=r"pywsapp\.topics\.v1"):
            async with server.client():
                pass


async def test_a_server_that_forgets_positions() -> None:
    """A client whose position is refused subscribes without one, and says that messages are missing."""
    subscribed: list[Any] = []

    def answer(conn: Connection, fields: dict[str, Any]) -> object:
        if fields["type"] != "subscribe":
            return None
        subscribed.append(fields.get("since"))
        if "since" in fields:
            send(conn, {"type": "error", "id": fields["id"], "code": "invalid_position", "message": "no"})
        else:
            send(conn, {"type": "ok", "id": fields["id"], "topic": "t", "position": "5-a"})
        return "answered"

    async with (
        serving_topics(Script(answer)) as server,
        server.client() as topics,
        topics.subscribe("t") as subscription,
    ):
        assert subscription.position == "5-a"
        server.rooms.connections[0].abort()
        with pytest.raises(MessagesLost) as lost:
            await subscription.receive()
        await topics.call("any")
        assert (lost.value.position, subscribed) == (None, [None, "5-a", None])


async def test_messages_of_a_subscription_that_was_left() -> None:
    def answer(conn: Connection, fields: dict[str, Any]) -> None:
        if fields["type"] == "unsubscribe":
            send(conn, {"type": "message", "topic": "t", "data": "old"})
        elif fields["type"] == "call":
            send(conn, {"type": "message", "topic": "t", "data": "new"})

    async with serving_topics(Script(answer)) as server, server.client() as topics:
        async with topics.subscribe("t"):
            pass
        async with topics.subscribe("t") as subscription:
            await topics.call("any")
            assert (await subscription.receive()).data == "new"


async def test_a_refused_token_and_a_connection_that_stays_open() -> None:
    refusal = {"type": "error", "id": "ID", "code": "unauthenticated", "message": "who are you?"}
    async with serving_topics(Script(answers(connect=refusal))) as server:
        for token, attempts in (("bad", 1), (lambda: "bad", 2)):
            server.rooms.got.clear()
            with pytest.raises(CallError, match="who are you"):
                async with server.client(token=token):
                    pass
            assert len(server.rooms.got) == attempts


async def test_a_token_is_refreshed_once_for_many_requests() -> None:
    asked: list[int] = []
    released = anyio.Event()

    async def token() -> str:
        asked.append(1)
        if len(asked) > 1:
            await released.wait()
        return f"token {len(asked)}"

    def answer(conn: Connection, fields: dict[str, Any]) -> object:
        if fields["type"] == "call":
            for _ in range(20):
                send(conn, {"type": "expiring", "expires_in": 5})
        return None

    async with serving_topics(Script(answer)) as server, server.client(token=token) as topics:
        await topics.call("expire")
        released.set()
        while not any(fields["type"] == "refresh" for fields in server.rooms.got):
            await topics.publish("t", 1)
        await topics.publish("t", 1)
        tokens = [fields["token"] for fields in server.rooms.got if "token" in fields]
        assert tokens == ["token 1", "token 2"]


async def test_a_refused_refresh_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def answer(conn: Connection, fields: dict[str, Any]) -> object:
        if fields["type"] == "call":
            send(conn, {"type": "expiring", "expires_in": 5})
        if fields["type"] != "refresh":
            return None
        send(conn, {"type": "error", "id": fields["id"], "code": "unavailable", "message": "no"})
        return "answered"

    made: list[Any] = ["first", "second", OSError("no network")]

    def token() -> str:
        found = made.pop(0)
        if isinstance(found, OSError):
            raise found
        return str(found)

    async with serving_topics(Script(answer)) as server, server.client(token=token) as topics:
        for _ in range(2):
            await topics.call("expire")
            await topics.publish("t", 1)
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(texts) == 2
    assert "refuses a new token: unavailable: no" in texts[0]
    assert "getting a new token" in texts[1]
    assert "failed: no network" in texts[1]


# -- readers -----------------------------------------------------------------------------------------------------------


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["type", "id", "code", "position", "data", "base64", "left", "joined"])


@settings(max_examples=50)
@given(st.dictionaries(names, values))
def test_readers_raise_nothing_else(fields: dict[str, Any]) -> None:
    found = outcome_of(lambda: read(JsonCodec("json"), json.dumps(fields)))
    is_message = isinstance(fields.get("type"), str) and isinstance(fields.get("position"), (str, type(None)))
    assert found == (fields if is_message else BrokenProtocol)
    if is_message:
        error = outcome_of(lambda: error_of(fields))
        if fields["type"] != "error":
            assert error is None
        else:
            assert isinstance(error, CallError) if isinstance(fields.get("code"), str) else error is BrokenProtocol
        data = outcome_of(lambda: data_of(fields))
        assert data == fields["data"] if "data" in fields else data is BrokenProtocol or isinstance(data, bytes)
        joined, left = fields.get("joined", {}), fields.get("left", [])
        assert outcome_of(lambda: users_of(fields, "joined")) == (joined if type(joined) is dict else BrokenProtocol)
        is_keys = type(left) is list and all(isinstance(key, str) for key in left)
        assert outcome_of(lambda: keys_of(fields, "left")) == (left if is_keys else BrokenProtocol)


def outcome_of(reader: Callable[[], Any]) -> Any:
    """Return what a reader returns, or BrokenProtocol if it raises that."""
    try:
        return reader()
    except BrokenProtocol:
        return BrokenProtocol


def test_the_meta_of_a_user_that_is_nested_too_deeply() -> None:
    meta: list[Any] = []
    for _ in range(100_000):  # more than any version of Python allows
        meta = [meta]
    with pytest.raises(BrokenProtocol, match="nested too deeply"):
        size_of_user("ana", meta)
