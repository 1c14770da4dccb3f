"""`FakeConnection`: what one method of a component does with a connection, without an App or an event loop."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from pywsapp import Connection, ConnectionClosed, MessageComponent, NotAuthorized, Topic, TopicError, broadcast
from pywsapp.exceptions import ConfigurationError
from pywsapp.testing import FakeConnection


def takes(conn: Connection) -> Connection:
    return conn


def test_it_has_the_interface_of_a_connection() -> None:
    assert isinstance(takes(FakeConnection()), Connection)
    for name in dir(Connection):
        real, fake = inspect.getattr_static(Connection, name), getattr(FakeConnection, name)
        if name.startswith("_") or not callable(real):
            continue
        ours = inspect.signature(fake)
        assert str(ours) == str(inspect.signature(getattr(Connection, name))), name


def test_it_takes_no_attributes() -> None:
    with pytest.raises(AttributeError):
        FakeConnection().name = "ana"  # type: ignore[attr-defined]


def test_what_was_sent() -> None:
    conn = FakeConnection()
    conn.send("text")
    conn.send(b"\0" * 100_000)
    conn.send('{"a":1}')
    assert conn.sent == ["text", b"\0" * 100_000, '{"a":1}']
    assert FakeConnection().sent == []
    with pytest.raises(TypeError):
        conn.send({"a": 1})
    assert conn.is_open


def test_values_of_json() -> None:
    conn = FakeConnection()
    conn.send('{"a":1}')
    conn.send("[]")
    assert conn.sent_json == [{"a": 1}, []]


def test_a_close_is_recorded_and_ends_the_connection() -> None:
    conn = FakeConnection()
    conn.send("bye")
    conn.close(4000, "as you wish")
    conn.send("too late")
    conn.close(4001)
    assert conn.closed == (4000, "as you wish")
    assert conn.sent == ["bye"]
    assert (conn.is_open, conn.close_code, conn.was_clean) == (False, 4000, True)
    with pytest.raises(ConfigurationError):
        FakeConnection().close(1)


def test_an_abort_is_recorded() -> None:
    conn = FakeConnection()
    assert conn.closed is None
    conn.abort()
    assert conn.closed == (1006, "")
    assert not conn.is_open


def test_what_the_request_says() -> None:
    conn = FakeConnection(
        "/rooms/red?since=4",
        user="ana",
        session={"cart": [1]},
        headers={"X-Id": "7"},
        subprotocol="chat",
        path_params={"name": "red"},
        remote_address="203.0.113.7",
    )
    assert (conn.user, conn.session["cart"], conn.subprotocol) == ("ana", [1], "chat")
    assert (conn.request.path, conn.request.query_params["since"]) == ("/rooms/red", "4")
    assert conn.request.path_params == {"name": "red"}
    assert (conn.request.headers["x-id"], conn.remote_address) == ("7", "203.0.113.7")
    conn.state.name = "Ana"
    assert conn.state.name == "Ana"
    with pytest.raises(ConfigurationError, match="no sessions"):
        _ = FakeConnection().session


def test_topics_and_broadcasts_are_recorded() -> None:
    ana = FakeConnection(user="ana")
    bob = FakeConnection(user="bob", app=ana.fake_app)
    for conn in ana, bob:
        conn.subscribe("room")
    assert ana.app is not None
    ana.app.topic("room").broadcast("hello", exclude=ana)
    ana.app.topic("other").broadcast(b"\1")
    assert ana.published == bob.published == [("room", "hello"), ("other", b"\1")]
    assert (ana.sent, bob.sent) == ([], ["hello"])
    assert bob.subscriptions == ["room"]
    bob.unsubscribe("room")
    assert bob.subscriptions == []
    ana.close()
    assert ana.subscriptions == []
    with pytest.raises(TopicError):
        bob.subscribe("")


def test_a_broadcast_to_connections() -> None:
    ana, bob = FakeConnection(), FakeConnection()
    broadcast([ana, bob], "hello", exclude=bob)
    assert (ana.sent, bob.sent) == (["hello"], [])


class Rooms(MessageComponent):
    def __init__(self) -> None:
        self.left: list[str] = []

    def authorize(self, conn: Connection, action: str, topic: str) -> bool:
        return topic != "secret"

    def on_subscribe(self, conn: Connection, topic: Topic) -> None:
        if topic.name == "full":
            raise TopicError("the room is full")

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
        self.left.append(topic.name)


def test_the_hooks_about_topics_of_a_component() -> None:
    rooms = Rooms()
    conn = FakeConnection(component=rooms)
    conn.subscribe("open")
    with pytest.raises(NotAuthorized):
        conn.subscribe("secret")
    with pytest.raises(TopicError, match="the room is full"):
        conn.subscribe("full")
    conn.close()
    assert rooms.left == ["open"]


class Async(MessageComponent):
    async def on_message(self, conn: Connection, message: Any) -> None:
        assert await conn.ping() < 1
        await conn.send(message)
        await conn.subscribe("room")
        assert conn.app is not None
        topic = conn.app.topic("room")
        await topic.track(conn, "ana", {"name": "Ana"})
        assert list(topic.present()) == ["ana"]
        assert await conn.may("publish", "room") is False
        conn.session["seen"] = True
        await conn.session.save()
        await conn.close()
        with pytest.raises(ConnectionClosed):
            await conn.ping()


@pytest.mark.anyio
async def test_an_async_method() -> None:
    conn = FakeConnection(session={})
    await Async().on_message(conn, "hello")
    assert (conn.sent, conn.closed) == (["hello"], (1000, ""))
