"""The demo's component and page, in memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from support.serving import GUARD
from support.topics_peer import JSON, TopicsPeer

from pywsapp._demo import chat
from pywsapp._demo.chat import make_app, tidy, topic_of
from pywsapp.testing import TestClient, two_nodes

pytestmark = pytest.mark.anyio


class Person(TopicsPeer):
    """A person in the chat. `present` has the people in all rooms by their keys, as the page knows them."""

    key: str
    present: dict[str, Any]
    room = ""

    async def enter(self, name: str, room: str = "lobby") -> dict[str, Any]:
        """Enter the chat, and return the reply of the server to the subscription to the room."""
        reply = await self.ask("subscribe", topic="people", presence=True, track={"name": name, "room": room})
        assert reply["type"] == "ok", reply
        self.present = reply["present"]
        return await self.follow(self.me["room"])

    async def follow(self, room: str, since: str | None = None) -> dict[str, Any]:
        self.room = room
        return await self.ask("subscribe", topic=topic_of(room), since=since)

    async def move(self, name: str, room: str = "lobby") -> None:
        """Change the name or the room, and wait until it has happened."""
        before = self.me
        assert await self.ask("track", topic="people", meta={"name": name, "room": room}) == {"type": "ok"}
        await self.until(lambda: self.me != before)

    @property
    def me(self) -> dict[str, str]:
        found: dict[str, str] = self.present[self.key]
        return found

    def people(self, room: str = "lobby") -> list[str]:
        return sorted(person["name"] for person in self.present.values() if person["room"] == room)

    async def say(self, text: str) -> dict[str, Any]:
        return await self.ask("publish", topic=topic_of(self.room), data=text)

    async def hear(self) -> dict[str, Any]:
        """Return the next message of a room, and follow the presence until then."""
        with anyio.fail_after(GUARD):
            while (message := await self.next())["type"] == "presence":
                self.see(message)
        return message

    async def until(self, condition: Callable[[], bool]) -> None:
        """Follow the presence until a condition holds."""
        with anyio.fail_after(GUARD):
            while not condition():
                self.see(await self.next())

    def see(self, change: dict[str, Any]) -> None:
        assert change["type"] == "presence"
        self.present |= change["joined"] | change["changed"]
        for key in change["left"]:
            del self.present[key]


Connect = Callable[..., Awaitable[Person]]


def connector(stack: AsyncExitStack) -> Connect:
    """Return a function that connects a person to the chat of a client."""

    async def connect(client: TestClient, token: str | None = None) -> Person:
        ws = await stack.enter_async_context(client.connect("/chat", subprotocols=[JSON]))
        person = Person(ws)
        reply = await person.connect(token=token or f"the token of {id(person)}")
        person.key = reply["user"]
        return person

    return connect


@pytest.fixture
async def client() -> AsyncIterator[TestClient]:
    async with TestClient(make_app()) as client:
        yield client


@pytest.fixture
async def person(client: TestClient) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:
        connect = connector(stack)
        yield lambda token=None: connect(client, token)


class TestRooms:
    async def test_a_new_person_gets_the_people_and_the_history(self, person: Connect) -> None:
        ana, ben = await person(), await person()
        await ana.enter("Ana")
        await ana.say("hello")
        said = await ana.hear()
        reply = await ben.enter("Ben")
        assert reply == {"type": "ok", "topic": "room:lobby", "position": said["position"], "complete": True}
        assert ben.people() == ["Ana", "Ben"]
        assert await ben.hear() == said
        assert said["data"] == {"name": "Ana", "text": "hello", "time": said["data"]["time"]}
        await ana.until(lambda: ana.people() == ["Ana", "Ben"])

    async def test_a_message_reaches_its_room_and_no_other(self, person: Connect) -> None:
        ana, ben, zoe = await person(), await person(), await person()
        await ana.enter("Ana")
        await ben.enter("Ben")
        await zoe.enter("Zoe", "music")
        await ana.say("to the lobby")
        await zoe.say("to music")
        assert (await ben.hear())["data"]["text"] == "to the lobby"
        assert (await zoe.hear())["data"]["text"] == "to music"

    async def test_a_person_writes_in_one_room_only(self, person: Connect) -> None:
        ana = await person()
        await ana.enter("Ana")
        await ana.move("Ana", "Ideas")
        assert (ana.people(), ana.people("ideas")) == ([], ["Ana"])
        assert (await ana.say("to the lobby"))["code"] == "not_in_room"
        await ana.follow("ideas")
        assert (await ana.say("to the ideas"))["type"] == "ok"
        await ana.ask("untrack", topic="people")
        assert (await ana.say("from outside"))["code"] == "not_in_room"

    async def test_a_lost_connection_leaves_the_room(self, person: Connect) -> None:
        ana, ben = await person(), await person()
        await ana.enter("Ana")
        await ben.enter("Ben")
        await ana.until(lambda: ana.people() == ["Ana", "Ben"])
        await ben.ws.close()
        await ana.until(lambda: ana.people() == ["Ana"])

    async def test_the_history_is_bounded(self, person: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chat, "BURST", 1000)
        ana, ben = await person(), await person()
        await ana.enter("Ana")
        for number in range(chat.HISTORY + 5):
            await ana.say(f"message {number}")
        await ben.enter("Ben")
        texts = [message["data"]["text"] for message in ben.got if message["type"] == "message"]
        assert texts == [f"message {number}" for number in range(5, chat.HISTORY + 5)]

    @pytest.mark.parametrize("room", ["", "  ", "a/b", "<b>", "x" * 33, "a#b"])
    async def test_a_bad_room_is_refused(self, person: Connect, room: str) -> None:
        ana = await person()
        await ana.enter("Ana")
        error = await ana.ask("track", topic="people", meta={"name": "Ana", "room": room})
        assert (error["code"], error["message"][:15]) == ("invalid_room", "A room's name h")
        assert (await ana.say("still here"))["type"] == "ok"

    @pytest.mark.parametrize("room", ["a", "x" * 32, "Café 2-b_c", "हिन्दी", "e\u0301te\u0301", "中文"])
    async def test_a_room_may_have_a_name_in_any_script(self, person: Connect, room: str) -> None:
        ana = await person()
        assert (await ana.enter("Ana", room))["type"] == "ok"
        assert ana.me["room"] == tidy(room).lower()
        assert (await ana.say("hello"))["type"] == "ok"

    async def test_rooms_are_bounded_and_empty_ones_do_not_count(
        self, person: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chat, "MAX_ROOMS", 1)
        ana, ben = await person(), await person()
        await ana.enter("Ana", "one")
        error = await ben.ask("subscribe", topic="people", track={"name": "Ben", "room": "two"})
        assert error["code"] == "too_many_rooms"
        await ana.move("Ana", "two")
        await ben.enter("Ben", "two")
        assert ben.people("two") == ["Ana", "Ben"]


class TestNames:
    async def test_a_taken_name_gets_a_number(self, person: Connect) -> None:
        people = [await person() for _ in range(5)]
        names = []
        for one, name in zip(people, ["Ana", "ana", "Ana", "x" * 40, "x" * 32], strict=True):
            await one.enter(name)
            names.append(one.me["name"])
        assert names == ["Ana", "ana 2", "Ana 3", "x" * 32, "x" * 30 + " 2"]

    async def test_a_name_is_free_again_when_its_owner_left(self, person: Connect) -> None:
        ana, ben, other = await person(), await person(), await person()
        await ana.enter("Ana")
        await ben.enter("Ben")
        await ana.ws.close()
        await ben.until(lambda: ben.people() == ["Ben"])
        await other.enter("Ana")
        assert other.me["name"] == "Ana"

    async def test_a_new_name_is_that_of_the_next_message(self, person: Connect) -> None:
        ana = await person()
        await ana.enter("Ana")
        await ana.move("  An\u202ena ")
        await ana.say("hello")
        assert (await ana.hear())["data"]["name"] == "Anna"

    @pytest.mark.parametrize("name", ["", " \t\n", "\u202e\u2066", "\u200d"])
    async def test_an_invisible_name_is_refused(self, person: Connect, name: str) -> None:
        error = await (await person()).ask("subscribe", topic="people", track={"name": name, "room": "lobby"})
        assert error == {"type": "error", "code": "invalid_name", "message": "Please choose a name."}

    async def test_a_broken_connection_keeps_no_name(self, person: Connect) -> None:
        old, ben = await person("k" * 32), await person()
        await ben.enter("Ben")
        await old.enter("Ana")
        new = await person("k" * 32)
        await new.enter("Ana")
        assert new.people() == ["Ana", "Ben"]
        await old.ws.close()
        await new.say("here I am")
        assert (await ben.hear())["data"]["name"] == "Ana"
        assert ben.people() == ["Ana", "Ben"]

    @pytest.mark.parametrize("token", ["short", "x" * 65])
    async def test_a_token_has_bounds(self, client: TestClient, token: str) -> None:
        async with client.connect("/chat", subprotocols=[JSON]) as ws:
            assert await TopicsPeer(ws).fails("connect", token=token) == "unauthenticated"


class TestBadRequests:
    @pytest.mark.parametrize("meta", [None, 5, "Ana", {}, {"name": "Ana"}, {"name": 1, "room": 2}])
    async def test_an_invalid_person_is_refused(self, person: Connect, meta: object) -> None:
        assert await (await person()).fails("subscribe", topic="people", track=meta) == "invalid_person"

    @pytest.mark.parametrize("topic", ["other", "room", "people"])
    async def test_other_topics_are_refused(self, person: Connect, topic: str) -> None:
        ana = await person()
        assert await ana.fails("publish", topic=topic, data="hello") == "not_allowed"
        if topic != "people":
            assert await ana.fails("subscribe", topic=topic) == "not_allowed"

    async def test_a_person_outside_of_all_rooms_cannot_say_anything(self, person: Connect) -> None:
        assert await (await person()).fails("publish", topic="room:lobby", data="hello?") == "not_in_room"

    @pytest.mark.parametrize("text", ["", " \n ", "x" * 2001, 5, ["text"], {"text": "text"}])
    async def test_a_message_has_bounds(self, person: Connect, text: Any) -> None:
        ana = await person()
        await ana.enter("Ana")
        assert (await ana.say(text))["code"] == "invalid_text"
        await ana.say("😀" * 2000)
        assert (await ana.hear())["data"]["text"] == "😀" * 2000

    async def test_half_a_surrogate_pair_does_no_harm(self, person: Connect) -> None:
        ana = await person()
        await ana.enter("Ana")
        ana.ws.send('{"type": "publish", "id": 99, "topic": "room:lobby", "data": "\\ud83d"}')
        assert (await ana.say("still here"))["type"] == "ok"

    async def test_a_flood_is_answered_with_a_notice(self, person: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chat, "PER_SECOND", 0)
        ana, ben = await person(), await person()
        await ana.enter("Ana")
        await ben.enter("Ben")
        for number in range(chat.BURST - 1):
            assert (await ana.say(f"message {number}"))["type"] == "ok"
        error = await ana.say("one more")
        assert (error["code"], error["message"][:17]) == ("too_many", "Too many messages")
        await ben.say("others are not delayed")
        heard = [(await ben.hear())["data"]["text"] for _ in range(chat.BURST)]
        assert heard == [*(f"message {number}" for number in range(chat.BURST - 1)), "others are not delayed"]


async def test_two_processes_are_one_chat() -> None:
    async with two_nodes(make_app) as (one, two), AsyncExitStack() as stack:
        connect = connector(stack)
        ana, ben, back = await connect(one), await connect(two, "k" * 16), await connect(one, "k" * 16)
        viewer = await connect(two)  # outside of all rooms
        await ana.enter("Ana")
        await ana.say("hello")
        said = await ana.hear()
        viewer.present = (await viewer.ask("subscribe", topic="people", presence=True))["present"]
        await viewer.until(lambda: viewer.people() == ["Ana"])  # the second process knows her
        await ben.enter("ana")
        assert (ben.me["name"], ben.people()) == ("ana 2", ["Ana", "ana 2"])
        assert await ben.hear() == said
        await ana.until(lambda: ana.people() == ["Ana", "ana 2"])
        await ben.say("hello yourself")
        again = await ben.hear()
        assert await ana.hear() == again
        await back.enter("ana")
        assert back.me["name"] == "ana 2"
        await back.ask("unsubscribe", topic="room:lobby")
        back.got.clear()
        assert (await back.follow("lobby", since=said["position"]))["complete"] is True
        assert await back.hear() == again


async def test_the_page_allows_its_own_script_and_style_only(client: TestClient) -> None:
    response = await client.get("/")
    assert response.status == 200
    body = response.body.decode()
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path, content_type in (("files/chat.css", "text/css"), ("files/chat.js", "text/javascript")):
        assert f'"{path}"' in body
        file = await client.get(f"/{path}")
        assert (file.status, file.headers["content-type"].partition(";")[0]) == (200, content_type)
        body += file.body.decode()
    assert set(re.findall(r"https?://[^\s'\"]+", body)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
