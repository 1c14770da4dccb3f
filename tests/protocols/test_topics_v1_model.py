"""A server beside a model of the specification: clients get what the model says, whatever they ask for."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

import anyio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.topics_peer import JSON, MSGPACK, Open, TopicsPeer, app_of, peer_of

from pywsapp.testing import TestClient, VirtualClock

CLIENTS = 3
#: Topics with a history and presence, without, and one that nobody may use.
TOPICS = ["room:1", "room:2", "plain", "no"]
KEPT = 5

topics = st.sampled_from(TOPICS)
sinces = st.sampled_from(["new", "all", "seen", "first"])
steps = st.one_of(
    st.tuples(st.just("subscribe"), topics, sinces, st.booleans(), st.booleans()),
    st.tuples(st.just("unsubscribe"), topics),
    st.tuples(st.just("publish"), topics, st.sampled_from([None, None, "k", "l"])),
    st.tuples(st.just("publish"), topics, st.none()),
    st.tuples(st.just("track"), topics, st.integers(0, 2)),
    st.tuples(st.just("untrack"), topics),
    st.tuples(st.just("reconnect")),
)
turns = st.tuples(st.integers(0, CLIENTS - 1), steps)


class ModelClient:
    """What one client has, by the specification.

    Attributes:
        subscribed: its topics; each with whether it gets changes of presence.
        metas: what others see of it, by topics.
        expected: the messages that it must have got.
        seen: the last position that it has seen, by topics.
        name: the key of its user.
    """

    def __init__(self) -> None:
        self.forget()
        self.seen: dict[str, int] = {}

    def forget(self) -> None:
        """Forget what ends with a connection."""
        self.subscribed: dict[str, bool] = {}
        self.metas: dict[str, Any] = {}
        self.expected: list[dict[str, Any]] = []
        self.views: dict[str, dict[str, Any]] = {}
        self.name = ""


class World:
    """The server with its clients, and the model of them."""

    def __init__(self) -> None:
        self.clients = [ModelClient() for _ in range(CLIENTS)]
        self.peers: list[TopicsPeer] = []
        self.stacks: list[AsyncExitStack] = []
        self.histories: dict[str, list[int]] = defaultdict(list)
        self.keys: set[tuple[int, str, str]] = set()
        self.epoch = ""
        self.number = 0

    async def run(self, script: list[Any]) -> None:
        async with TestClient(app_of(Open()), clock=VirtualClock()) as client, AsyncExitStack() as all_:
            self.client = client
            for number in range(CLIENTS):
                stack = await all_.enter_async_context(AsyncExitStack())
                self.stacks.append(stack)
                self.peers.append(await self.open(number))
            position = (await self.peers[0].ask("subscribe", topic="room:1"))["position"]
            self.epoch = position.removeprefix("0-")
            await self.peers[0].ask("unsubscribe", topic="room:1")
            for number, step in script:
                await getattr(self, step[0])(number, *step[1:])
                await self.check()
            await client.clock.advance(0.3)
            await self.check()
            self.check_presence()

    async def open(self, number: int) -> TopicsPeer:
        subprotocol = MSGPACK if number == 1 else JSON
        peer = await self.stacks[number].enter_async_context(peer_of(self.client, subprotocol, connects=False))
        reply = await peer.connect(session=f"the-session-of-client-{number}")
        self.clients[number].name = reply["client"]
        return peer

    async def check(self) -> None:
        """Check what each client has got so far."""
        for peer, model in zip(self.peers, self.clients, strict=True):
            peer.send_object({"type": "ping"})
            while (found := await peer.receive())["type"] != "pong":
                peer.got.append(found)
            for message in peer.got:
                if message["type"] == "presence":
                    self.apply(model.views[message["topic"]], message)
            assert [message for message in peer.got if message["type"] != "presence"] == model.expected
            peer.got.clear()
            model.expected.clear()

    def apply(self, view: dict[str, Any], diff: dict[str, Any]) -> None:
        """Apply changes of presence; each must fit the view."""
        assert not set(diff["joined"]) & set(view)
        assert set(diff["changed"]) | set(diff["left"]) <= set(view)
        view.update(diff["joined"])
        view.update(diff["changed"])
        for key in diff["left"]:
            del view[key]

    def check_presence(self) -> None:
        for name in TOPICS:
            present = {model.name: model.metas[name] for model in self.clients if name in model.metas}
            for model in self.clients:
                assert not model.subscribed.get(name) or model.views[name] == present

    def message(self, name: str, offset: int) -> dict[str, Any]:
        """Return the message at an offset of a history."""
        number = self.histories[name][offset - 1]
        return {"type": "message", "topic": name, "position": f"{offset}-{self.epoch}", "data": {"n": number}}

    # -- steps -------------------------------------------------------------------------------------------------------

    async def subscribe(self, number: int, name: str, since: str, presence: bool, tracks: bool) -> None:  # noqa: C901
        peer, model, history = self.peers[number], self.clients[number], self.histories[name]
        positions: dict[str, Any] = {"all": None, "seen": model.seen.get(name, 0), "first": 0}
        fields: dict[str, Any] = {}
        if since != "new":
            offset = positions[since]
            fields["since"] = None if offset is None else f"{offset}-{self.epoch}"
        if presence:
            fields["presence"] = True
        if tracks:
            fields["track"] = "in"
        code = ""
        if name in model.subscribed:
            code = "already_subscribed"
        elif "since" in fields and not name.startswith("room"):
            code = "no_history"
        elif name == "no":
            code = "not_allowed"
        elif (presence or tracks) and name == "plain":
            code = "no_presence"
        if code:
            assert await peer.fails("subscribe", topic=name, **fields) == code
            return
        reply = await peer.ask("subscribe", topic=name, **fields)
        model.subscribed[name] = presence
        if tracks:
            model.metas[name] = "in"
        expected: dict[str, Any] = {"type": "ok", "topic": name}
        if name.startswith("room"):
            expected["position"] = f"{len(history)}-{self.epoch}"
            model.seen[name] = len(history)
        if "since" in fields:
            first = max(0, len(history) - KEPT)
            after = first if offset is None else offset
            expected["complete"] = after >= first
            if after < first:
                model.expected.append({"type": "lost", "topic": name, "position": f"{first}-{self.epoch}"})
            model.expected += [self.message(name, at) for at in range(max(after, first) + 1, len(history) + 1)]
        if presence:
            model.views[name] = reply["present"]
            expected["present"] = {one.name: one.metas[name] for one in self.clients if name in one.metas}
        assert reply == expected

    async def unsubscribe(self, number: int, name: str) -> None:
        model = self.clients[number]
        if name not in model.subscribed:
            assert await self.peers[number].fails("unsubscribe", topic=name) == "not_subscribed"
            return
        assert await self.peers[number].ask("unsubscribe", topic=name) == {"type": "ok"}
        del model.subscribed[name]
        model.metas.pop(name, None)

    async def publish(self, number: int, name: str, key: str | None) -> None:
        peer = self.peers[number]
        self.number += 1
        fields: dict[str, Any] = {"data": {"n": self.number}} | ({} if key is None else {"key": key})
        if name == "no":
            assert await peer.fails("publish", topic=name, **fields) == "not_allowed"
            return
        assert await peer.ask("publish", topic=name, **fields) == {"type": "ok"}
        if key is not None and (number, name, key) in self.keys:
            return
        self.keys.add((number, name, key or ""))
        message = {"type": "message", "topic": name, **fields}
        message.pop("key", None)
        if name.startswith("room"):
            self.histories[name].append(self.number)
            message = self.message(name, len(self.histories[name]))
        for model in self.clients:
            if name in model.subscribed:
                model.expected.append(message)
                model.seen[name] = len(self.histories[name])

    async def track(self, number: int, name: str, meta: int) -> None:
        peer, model = self.peers[number], self.clients[number]
        if name not in model.subscribed:
            assert await peer.fails("track", topic=name, meta=meta) == "not_subscribed"
        elif name == "plain":
            assert await peer.fails("track", topic=name, meta=meta) == "no_presence"
        else:
            assert await peer.ask("track", topic=name, meta=meta) == {"type": "ok"}
            model.metas[name] = meta

    async def untrack(self, number: int, name: str) -> None:
        peer, model = self.peers[number], self.clients[number]
        if name not in model.subscribed:
            assert await peer.fails("untrack", topic=name) == "not_subscribed"
        else:
            assert await peer.ask("untrack", topic=name) == {"type": "ok"}
            model.metas.pop(name, None)

    async def reconnect(self, number: int) -> None:
        await self.stacks[number].aclose()
        self.clients[number].forget()
        self.peers[number] = await self.open(number)


@settings(max_examples=30, deadline=None)
@given(st.lists(turns, max_size=40))
@example(
    [
        (0, ("publish", "room:1", "k")),
        (0, ("reconnect",)),
        (0, ("publish", "room:1", "k")),
        (1, ("publish", "room:1", "k")),
    ]
)
@example(
    [
        *[(0, ("publish", "room:1", None))] * 8,
        (1, ("subscribe", "room:1", "first", True, True)),
        (2, ("subscribe", "room:1", "all", True, False)),
        (1, ("track", "room:1", 2)),
        (1, ("reconnect",)),
        (1, ("subscribe", "room:1", "seen", True, True)),
    ]
)
def test_clients_get_what_the_model_says(script: list[Any]) -> None:
    anyio.run(World().run, script)
