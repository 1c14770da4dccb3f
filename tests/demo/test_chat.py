"""The demo's component and page, through a real server."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request, TextMessage

from pywsapp import App
from pywsapp._demo import chat
from pywsapp._demo.chat import make_app, parse, tidy
from pywsapp.brokers.memory import MemoryBroker

Event = dict[str, Any]


class Person:
    """A person in the chat, on a client of wsproto."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.wire = WSConnection(ConnectionType.CLIENT)
        self.close_code: int | None = None

    async def connect(self, port: int) -> None:
        await self.stream.send(self.wire.send(Request(host=f"localhost:{port}", target="/chat")))
        assert isinstance(await self.next_event(), AcceptConnection)

    async def next_event(self) -> object:
        with anyio.fail_after(10):
            while True:
                for event in self.wire.events():
                    return event
                self.wire.receive_data(await self.stream.receive())

    async def send(self, kind: str, **fields: Any) -> None:
        await self.send_raw(json.dumps({"type": kind, **fields}))

    async def send_raw(self, data: str | bytes) -> None:
        event = BytesMessage(data) if isinstance(data, bytes) else TextMessage(data)
        await self.stream.send(self.wire.send(event))

    async def hear(self, *kinds: str) -> Event:
        """Return the next event of one of the kinds, and skip those before it."""
        text = ""
        while True:
            event = await self.next_event()
            if isinstance(event, CloseConnection):
                self.close_code = event.code
                raise EOFError
            assert isinstance(event, TextMessage)
            text += event.data
            if event.message_finished:
                heard: Event = json.loads(text)
                text = ""
                if heard["type"] in kinds:
                    return heard

    async def join(self, name: str, room: str = "lobby", **fields: Any) -> Event:
        """Join, and return the welcome, with the messages up to ready as its history."""
        await self.send("join", name=name, room=room, **fields)
        welcome = await self.hear("welcome")
        welcome["history"] = []
        while (event := await self.hear("message", "missed", "ready"))["type"] != "ready":
            welcome["history"].append(event)
        return welcome

    async def say(self, text: str) -> Event:
        await self.send("say", text=text)
        return await self.hear("message")


@asynccontextmanager
async def running(app: App) -> AsyncIterator[App]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        yield app
        tasks.cancel_scope.cancel()


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with running(make_app(port=0)) as app:
        yield app


@pytest.fixture
async def person(app: App) -> AsyncIterator[Callable[[], Awaitable[Person]]]:
    async with AsyncExitStack() as stack:

        async def connect() -> Person:
            stream = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", app.port))
            person = Person(stream)
            await person.connect(app.port)
            return person

        yield connect


Connect = Callable[[], Awaitable[Person]]


@pytest.mark.anyio
class TestRooms:
    async def test_a_new_person_gets_the_people_and_the_history(self, person: Connect) -> None:
        ana, ben = await person(), await person()
        await ana.join("Ana")
        said = await ana.say("hello")
        welcome = await ben.join("Ben")
        assert welcome["room"] == "lobby"
        assert welcome["name"] == "Ben"
        assert sorted(welcome["people"]) == ["Ana", "Ben"]
        assert welcome["history"] == [said]
        assert welcome["rooms"] == [["lobby", 2], ["ideas", 0], ["music", 0]]
        assert (await ana.hear("joined"))["name"] == "Ben"

    async def test_a_message_reaches_its_room_and_no_other(self, person: Connect) -> None:
        ana, ben, zoe = await person(), await person(), await person()
        await ana.join("Ana")
        await ben.join("Ben")
        await zoe.join("Zoe", "music")
        await ana.say("to the lobby")
        assert (await ben.hear("message"))["text"] == "to the lobby"
        assert (await zoe.say("to music"))["text"] == "to music"

    async def test_changing_the_room_leaves_the_old_one(self, person: Connect) -> None:
        ana, ben = await person(), await person()
        await ana.join("Ana")
        await ben.join("Ben")
        welcome = await ana.join("Ana", "Ideas")
        assert (welcome["room"], welcome["people"]) == ("ideas", ["Ana"])
        assert (await ben.hear("left"))["name"] == "Ana"

    async def test_a_lost_connection_leaves_the_room(self, person: Connect) -> None:
        ana, ben = await person(), await person()
        await ana.join("Ana")
        await ben.join("Ben")
        await ben.stream.aclose()
        assert (await ana.hear("left"))["name"] == "Ben"

    async def test_all_people_get_new_rooms(self, person: Connect) -> None:
        ana, ben = await person(), await person()
        await ana.join("Ana")
        await ben.join("Ben", "garden")
        rooms: list[list[Any]] = []
        while ["garden", 1] not in rooms:
            rooms = (await ana.hear("rooms"))["rooms"]

    async def test_the_history_is_bounded(self, person: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chat, "BURST", 1000)
        ana, ben = await person(), await person()
        await ana.join("Ana")
        ids = [(await ana.say(f"message {number}"))["id"] for number in range(chat.HISTORY + 5)]
        history = (await ben.join("Ben"))["history"]
        assert [message["id"] for message in history] == ids[5:]
        assert ids == sorted(set(ids), key=lambda position: int(position.partition("-")[0]))

    @pytest.mark.parametrize("room", ["", "  ", "a/b", "<b>", "x" * 33, "a#b"])
    async def test_a_bad_room_is_refused(self, person: Connect, room: str) -> None:
        ana = await person()
        await ana.join("Ana")
        await ana.send("join", name="Ana", room=room)
        error = await ana.hear("error")
        assert (error["about"], error["text"][:15]) == ("join", "A room's name h")
        await ana.say("still here")

    @pytest.mark.parametrize("room", ["a", "x" * 32, "Café 2-b_c", "हिन्दी", "e\u0301te\u0301", "中文"])
    async def test_a_room_may_have_a_name_in_any_script(self, person: Connect, room: str) -> None:
        assert (await (await person()).join("Ana", room))["room"] == tidy(room).lower()

    async def test_rooms_are_bounded_and_empty_ones_do_not_count(
        self, person: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chat, "MAX_ROOMS", len(chat.START_ROOMS) + 1)
        ana, ben = await person(), await person()
        await ana.join("Ana", "one")
        await ben.send("join", name="Ben", room="two")
        assert "too many rooms" in (await ben.hear("error"))["text"]
        await ana.join("Ana", "lobby")
        welcome = await ben.join("Ben", "two")
        assert [name for name, _ in welcome["rooms"]] == [*chat.START_ROOMS, "two"]


@pytest.mark.anyio
class TestNames:
    async def test_a_taken_name_gets_a_number(self, person: Connect) -> None:
        people = [await person() for _ in range(4)]
        names = [
            (await one.join(name))["name"] for one, name in zip(people, ["Ana", "ana", "Ana", "x" * 40], strict=True)
        ]
        assert names == ["Ana", "ana 2", "Ana 3", "x" * 32]
        double = await person()
        assert (await double.join("x" * 32))["name"] == "x" * 30 + " 2"

    async def test_a_name_is_free_again_when_its_owner_left(self, person: Connect) -> None:
        ana, ben, other = await person(), await person(), await person()
        await ana.join("Ana")
        await ben.join("Ben")
        await ana.stream.aclose()
        await ben.hear("left")
        assert (await other.join("Ana"))["name"] == "Ana"

    @pytest.mark.parametrize("name", ["", " \t\n", "\u202e\u2066", "\u200d"])
    async def test_an_invisible_name_is_refused(self, person: Connect, name: str) -> None:
        ana = await person()
        await ana.send("join", name=name, room="lobby")
        assert await ana.hear("error") == {"type": "error", "text": "Please choose a name.", "about": "join"}

    async def test_a_key_takes_over_a_broken_connection(self, person: Connect) -> None:
        old, new, ben = await person(), await person(), await person()
        await ben.join("Ben")
        await old.join("Ana", key="k" * 32)
        assert (await new.join("Ana", key="k" * 32))["name"] == "Ana"
        with pytest.raises(EOFError):
            await old.hear("nothing")
        assert old.close_code == 4000
        await new.say("here I am")
        assert (await ben.hear("left", "message"))["name"] == "Ana"

    @pytest.mark.parametrize("key", ["", "short", "x" * 65, 5, ["k"], None])
    async def test_a_bad_key_takes_over_nothing(self, person: Connect, key: object) -> None:
        one, two = await person(), await person()
        await one.join("Ana", key=key)
        assert (await two.join("Ana", key=key))["name"] == "Ana 2"


@pytest.mark.anyio
class TestBadEvents:
    @pytest.mark.parametrize(
        "message",
        [
            "no json",
            "[]",
            "null",
            "5",
            "{}",
            '{"type": "fly"}',
            '{"type": ["join"]}',
            '{"type": "join", "name": 1, "room": 2}',
            '{"type": "say"}',
            "[" * 30_000,
            "1" * 30_000,
            b'{"type": "say", "text": "binary"}',
            b"\x00\xff",
        ],
        ids=lambda message: repr(message[:20]),
    )
    async def test_an_invalid_event_is_answered(self, person: Connect, message: str | bytes) -> None:
        ana = await person()
        await ana.join("Ana")
        await ana.send_raw(message)
        assert (await ana.hear("error"))["text"] == "I did not understand that."
        await ana.say("still here")

    async def test_a_person_outside_of_all_rooms_cannot_say_anything(self, person: Connect) -> None:
        ana = await person()
        await ana.send("say", text="hello?")
        assert await ana.hear("error") == {"type": "error", "text": "Please join a room first.", "about": "say"}

    @pytest.mark.parametrize("text", ["", " \n ", "x" * 2001])
    async def test_a_message_has_bounds(self, person: Connect, text: str) -> None:
        ana = await person()
        await ana.join("Ana")
        await ana.send("say", text=text)
        assert (await ana.hear("error"))["about"] == "say"
        assert (await ana.say("😀" * 2000))["text"] == "😀" * 2000

    async def test_half_a_surrogate_pair_does_no_harm(self, person: Connect) -> None:
        ana = await person()
        await ana.join("A\ud800na")
        assert (await ana.say("\ud83d"))["text"] == "\ud83d"

    async def test_a_flood_is_answered_with_a_notice(self, person: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chat, "PER_SECOND", 0)
        ana, ben = await person(), await person()
        await ana.join("Ana")
        await ben.join("Ben")
        for number in range(chat.BURST):
            await ana.send("say", text=f"message {number}")
        error = await ana.hear("error")
        assert (error["about"], error["text"][:17]) == ("say", "Too many messages")
        for number in range(chat.BURST - 1):
            assert (await ben.hear("message"))["text"] == f"message {number}"
        await ben.say("others are not delayed")
        assert (await ana.hear("message"))["text"] == "others are not delayed"


@pytest.mark.anyio
async def test_two_processes_are_one_chat() -> None:
    broker = MemoryBroker()
    async with AsyncExitStack() as stack:

        async def person(app: App) -> Person:
            stream = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", app.port))
            person = Person(stream)
            await person.connect(app.port)
            return person

        one, two = [await stack.enter_async_context(running(make_app(port=0, broker=broker))) for _ in range(2)]
        ana, ben, late = await person(one), await person(two), await person(two)
        await ana.join("Ana")
        said = await ana.say("hello")
        welcome = await ben.join("ana", key="k" * 16)
        assert (welcome["name"], sorted(welcome["people"])) == ("ana 2", ["Ana", "ana 2"])
        assert welcome["rooms"][0] == ["lobby", 2]
        assert welcome["history"] == [said]
        assert (await ana.hear("joined"))["name"] == "ana 2"
        again = await ben.say("hello yourself")
        assert await ana.hear("message") == again
        back = await person(one)
        assert (await back.join("ana", key="k" * 16, since=said["id"]))["history"] == [again]
        with pytest.raises(EOFError):
            await ben.hear("nothing")
        assert (await late.join("Late", since="99-0000"))["history"] == [{"type": "missed"}, said, again]


@pytest.mark.anyio
async def test_the_page_allows_its_own_script_and_style_only(app: App) -> None:
    async with await anyio.connect_tcp("127.0.0.1", app.port) as stream:
        await stream.send(f"GET / HTTP/1.1\r\nHost: localhost:{app.port}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        with anyio.fail_after(10):
            async for data in stream:
                answer += data
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 ")
    policy = re.search(r"(?im)^content-security-policy: (.*)$", head)
    assert policy is not None
    for tag in ("style", "script"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", body, re.DOTALL)
        assert f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in policy[1]
    assert "unsafe" not in policy[1]
    assert set(re.findall(r"https?://[^\s'\"]+", body)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


@given(st.text() | st.binary() | st.recursive(st.none() | st.text(), lambda inner: st.lists(inner)).map(json.dumps))
def test_parse_returns_an_object_or_an_empty_one(message: str | bytes) -> None:
    assert isinstance(parse(message), dict)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()))
def test_parse_returns_the_object(event: dict[str, Any]) -> None:
    assert parse(json.dumps(event)) == event


@given(st.text())
def test_a_tidy_line_has_nothing_invisible(text: str) -> None:
    line = tidy(text)
    assert all(char.isprintable() or char in chat.JOINERS for char in line)
    assert line == " ".join(line.split())
    assert tidy(line) == line[:200].strip()
