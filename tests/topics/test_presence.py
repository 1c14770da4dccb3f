"""Presence: each process knows the users of all, while messages, processes and brokers come and go."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.serving import GUARD, Serving, serving

from pywsapp import App, Connection, MessageComponent, Topic, TopicError
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.topics.presence.events import MAX_META_BYTES, Event
from pywsapp.topics.presence.topic_presence import PresenceDiff, Present
from pywsapp.topics.presence.view import HEARTBEAT_SECONDS, LEASE_SECONDS, PresenceView

TOPICS = ("room:1", "room:2")
KEYS = ("ana", "bea", "cid")


class Process:
    """A process, its connection to the network, and the changes that were reported to it."""

    def __init__(self, network: Network, name: str) -> None:
        self.name = name
        self.network = network
        self.view = PresenceView(name, self.send, self.report)
        self.inbox: deque[tuple[str, str, Event]] = deque()
        self.connected = True
        self.alive = True
        self.here: dict[str, dict[str, str]] = {}  # topic -> connection -> key
        self.reported: dict[str, dict[str, Any]] = {}

    def send(self, topic: str, event: Event) -> None:
        if self.connected:
            self.network.publish(self.name, topic, json.loads(json.dumps(event)))

    def report(self, topic: str, diff: PresenceDiff) -> None:
        reported = self.reported.setdefault(topic, {})
        for key, meta in diff.joined.items():
            assert key not in reported
            reported[key] = meta
        for key, (before, meta) in diff.changed.items():
            assert reported[key] == before != meta
            reported[key] = meta
        for key, meta in diff.left.items():
            assert reported.pop(key) == meta


class Network:
    """A broker that delivers late, and loses nothing while a process is connected."""

    def __init__(self) -> None:
        self.processes: dict[str, Process] = {}
        self.now = 1000.0

    def publish(self, sender: str, topic: str, event: Event) -> None:
        for process in self.processes.values():
            if process.connected and process.name != sender:
                process.inbox.append((topic, sender, event))

    def deliver(self, process: Process, number: int) -> None:
        for _ in range(min(number, len(process.inbox))):
            topic, sender, event = process.inbox.popleft()
            process.view.receive(topic, sender, event, self.now)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and deliver everything."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            for process in self.processes.values():
                if process.alive:
                    process.view.tick(self.now)
            for process in self.processes.values():
                self.deliver(process, len(process.inbox))

    def truth(self, topic: str) -> dict[str, int]:
        """Return the users that are really present, with the number of their connections."""
        found: dict[str, int] = {}
        for process in self.processes.values():
            for key in process.here.get(topic, {}).values():
                found[key] = found.get(key, 0) + 1
        return found


class Processes(RuleBasedStateMachine):
    """Processes start, die, lose their connection, open and close topics, and users come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.count = 0

    @initialize()
    def begin(self) -> None:
        self.start()
        self.start()

    def some(self, data: st.DataObject) -> Process:
        return self.network.processes[data.draw(st.sampled_from(sorted(self.network.processes)))]

    @precondition(lambda self: len(self.network.processes) < 4)
    @rule()
    def start(self) -> None:
        self.count += 1
        process = Process(self.network, f"n{self.count}")
        self.network.processes[process.name] = process

    @rule(data=st.data(), topic=st.sampled_from(TOPICS))
    def subscribe(self, data: st.DataObject, topic: str) -> None:
        process = self.some(data)
        process.here.setdefault(topic, {})
        process.view.open(topic, settled=True)
        process.view.ask(topic)

    @rule(data=st.data(), topic=st.sampled_from(TOPICS))
    def desert(self, data: st.DataObject, topic: str) -> None:
        process = self.some(data)
        for conn in process.here.pop(topic, {}):
            process.view.untrack(topic, conn)
        process.view.close(topic)
        process.reported.pop(topic, None)

    @rule(data=st.data(), topic=st.sampled_from(TOPICS), key=st.sampled_from(KEYS), conn=st.sampled_from("xyz"))
    def track(self, data: st.DataObject, topic: str, key: str, conn: str) -> None:
        process = self.some(data)
        if topic in process.here:
            process.here[topic][conn] = key
            process.view.track(topic, conn, key, {"at": self.network.now}, self.network.now)

    @rule(data=st.data(), topic=st.sampled_from(TOPICS), conn=st.sampled_from("xyz"))
    def untrack(self, data: st.DataObject, topic: str, conn: str) -> None:
        process = self.some(data)
        if topic in process.here:
            process.here[topic].pop(conn, None)
            process.view.untrack(topic, conn)

    @precondition(lambda self: len(self.network.processes) > 1)
    @rule(data=st.data(), politely=st.booleans())
    def end(self, data: st.DataObject, politely: bool) -> None:
        process = self.some(data)
        if politely:
            process.view.stop()
        del self.network.processes[process.name]

    @rule(data=st.data())
    def cut_off(self, data: st.DataObject) -> None:
        process = self.some(data)
        process.connected = False
        process.inbox.clear()

    @rule(data=st.data())
    def connect(self, data: st.DataObject) -> None:
        process = self.some(data)
        if not process.connected:
            process.connected = True
            process.view.connected()

    @rule(data=st.data())
    def freeze(self, data: st.DataObject) -> None:
        self.some(data).alive = False

    @rule(data=st.data())
    def thaw(self, data: st.DataObject) -> None:
        self.some(data).alive = True

    @rule(data=st.data(), number=st.integers(1, 5))
    def deliver(self, data: st.DataObject, number: int) -> None:
        self.network.deliver(self.some(data), number)

    @rule(data=st.data())
    def tick(self, data: st.DataObject) -> None:
        self.network.now += 0.1
        process = self.some(data)
        if process.alive:
            process.view.tick(self.network.now)

    @rule(seconds=st.sampled_from([1.0, HEARTBEAT_SECONDS, LEASE_SECONDS * 2]))
    def wait(self, seconds: float) -> None:
        self.network.pass_time(seconds)

    @invariant()
    def own_users_are_seen_at_once(self) -> None:
        for process in self.network.processes.values():
            for topic, connections in process.here.items():
                assert set(connections.values()) <= set(process.view.present(topic))

    def teardown(self) -> None:
        """When all processes are connected and some time has passed, all know the truth."""
        for process in self.network.processes.values():
            process.alive = True
            if not process.connected:
                process.connected = True
                process.view.connected()
        self.network.pass_time(LEASE_SECONDS + 3 * HEARTBEAT_SECONDS)
        for process in self.network.processes.values():
            for topic in process.here:
                seen = process.view.present(topic)
                assert {key: entry.connections for key, entry in seen.items()} == self.network.truth(topic)
                assert process.reported.get(topic, {}) == {key: entry.meta for key, entry in seen.items()}


Processes.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestProcesses = Processes.TestCase


@pytest.fixture
def network() -> Network:
    return Network()


def two(network: Network) -> tuple[Process, Process]:
    processes = Process(network, "one"), Process(network, "two")
    for process in processes:
        network.processes[process.name] = process
        process.view.open("room:1", settled=True)
        process.view.ask("room:1")
    return processes


def test_a_user_with_several_tabs_has_one_entry(network: Network) -> None:
    one, two_ = two(network)
    one.view.track("room:1", "tab 1", "ana", {"n": 1}, 1.0)
    one.view.track("room:1", "tab 2", "ana", {"n": 2}, 2.0)
    two_.view.track("room:1", "phone", "ana", {"n": 3}, 3.0)
    network.pass_time(1)
    for process in (one, two_):
        assert process.view.present("room:1") == {"ana": Present({"n": 3}, 3)}
        assert process.reported == {"room:1": {"ana": {"n": 3}}}
    two_.view.untrack("room:1", "phone")
    one.view.untrack("room:1", "tab 1")
    network.pass_time(1)
    for process in (one, two_):
        assert process.view.present("room:1") == {"ana": Present({"n": 2}, 1)}


def test_a_reloaded_page_is_not_reported(network: Network) -> None:
    one, two_ = two(network)
    one.view.track("room:1", "tab", "ana", None, 1.0)
    network.pass_time(1)
    reported: list[PresenceDiff] = []
    for process in (one, two_):
        process.view._report = lambda topic, diff: reported.append(diff)
    one.view.untrack("room:1", "tab")
    one.view.track("room:1", "another", "ana", None, 2.0)
    network.pass_time(1)
    assert not reported


def test_the_users_of_a_killed_process_leave_when_its_lease_expires(network: Network) -> None:
    one, two_ = two(network)
    one.view.track("room:1", "tab", "ana", None, 1.0)
    network.pass_time(1)
    del network.processes["one"]
    network.pass_time(LEASE_SECONDS - HEARTBEAT_SECONDS)
    assert "ana" in two_.view.present("room:1")
    network.pass_time(HEARTBEAT_SECONDS + 1)
    assert two_.view.present("room:1") == {}
    assert two_.reported == {"room:1": {}}


def test_the_users_of_a_process_that_stops_leave_at_once(network: Network) -> None:
    one, two_ = two(network)
    one.view.track("room:1", "tab", "ana", None, 1.0)
    network.pass_time(1)
    one.view.stop()
    del network.processes["one"]
    network.pass_time(1)
    assert two_.reported == {"room:1": {}}


def test_many_users_are_sent_in_parts(network: Network) -> None:
    one, two_ = two(network)
    for number in range(1700):
        one.view.track("room:1", number, f"user {number}", number, 1.0)
    network.pass_time(1)
    assert len(two_.view.present("room:1")) == 1700
    late = Process(network, "late")
    network.processes["late"] = late
    late.view.open("room:1", settled=False)
    late.view.ask("room:1")
    network.pass_time(1)
    assert late.view.present("room:1") == two_.view.present("room:1")
    assert not late.reported
    late.view.settle("room:1")
    one.view.untrack("room:1", 7)
    late.view.track("room:1", "tab", "late", None, 2.0)
    reported: list[PresenceDiff] = []
    late.view._report = lambda topic, diff: reported.append(diff)
    network.pass_time(1)
    assert reported == [PresenceDiff(joined={"late": None}), PresenceDiff(left={"user 7": 7})]


@pytest.mark.parametrize("key", ["", "x" * 201, 7, None])
def test_an_invalid_key(network: Network, key: Any) -> None:
    one, _ = two(network)
    with pytest.raises(TopicError, match="key of a user"):
        one.view.track("room:1", "tab", key, None, 1.0)


@pytest.mark.parametrize("meta", [object(), {1, 2}, "x" * MAX_META_BYTES])
def test_an_invalid_meta(network: Network, meta: Any) -> None:
    one, _ = two(network)
    with pytest.raises(TopicError, match="meta of a user"):
        one.view.track("room:1", "tab", "ana", meta, 1.0)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def hostile_events() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"presence": st.sampled_from(["diff", "state", "ask", "alive", "bye"]) | JUNK},
        optional={
            name: JUNK | st.integers(0, 3) | st.dictionaries(st.text(max_size=3), JUNK, max_size=3)
            for name in ("n", "all", "set", "gone", "more", "of")
        },
    )


@given(st.lists(st.tuples(st.sampled_from(["room:1", "$pywsapp:alive"]), hostile_events()), max_size=20))
def test_invalid_events_raise_nothing(events: list[tuple[str, dict[str, Any]]]) -> None:
    network = Network()
    one, _ = two(network)
    one.view.track("room:1", "tab", "ana", None, 1.0)
    for topic, event in events:
        one.view.receive(topic, "another", event, network.now)
        network.pass_time(0.5)
    assert "ana" in one.view.present("room:1")


# -- on an app ---------------------------------------------------------------------------------------------------------


class Room(MessageComponent):
    def __init__(self, topic: Callable[[str], Topic]) -> None:
        self.topic = topic

    async def on_open(self, conn: Connection) -> None:
        name = conn.request.query_params["name"]
        topic = self.topic("room:1")
        await topic.add(conn)
        topic.track(conn, name, {"name": name.title()})
        conn.send("welcome")


def make_app(broker: MemoryBroker | None) -> App:
    app = App("*", 0, broker=broker)
    app.route("/", Room(app.topic), allowed_origins=["*"])

    @app.on_presence("room:*")
    def send_changes(topic: Topic, diff: PresenceDiff) -> None:
        for conn in topic:
            conn.send(json.dumps({"joined": diff.joined, "left": diff.left}, sort_keys=True))

    return app


async def said(client: Any) -> Any:
    return json.loads((await client.receive())[1])


pytest_anyio = pytest.mark.anyio


@pytest_anyio
@pytest.mark.parametrize("shared", [False, True], ids=["one process", "two processes"])
async def test_presence_of_an_app(shared: bool) -> None:
    broker = MemoryBroker() if shared else None
    first_app = make_app(broker)
    async with serving(first_app) as first:
        if not shared:
            await join_and_leave(first, first, first_app)
            return
        async with serving(make_app(broker)) as second:
            await join_and_leave(first, second, first_app)


async def join_and_leave(first: Serving, second: Serving, app: App) -> None:
    async with first.client("/?name=ana") as ana:
        assert (await ana.receive())[1] == b"welcome"
        assert await said(ana) == {"joined": {"ana": {"name": "Ana"}}, "left": {}}
        async with second.client("/?name=bea") as bea:
            assert (await bea.receive())[1] == b"welcome"
            assert await said(ana) == {"joined": {"bea": {"name": "Bea"}}, "left": {}}
            assert app.topic("room:1").present() == {
                "ana": Present({"name": "Ana"}, 1),
                "bea": Present({"name": "Bea"}, 1),
            }
        assert await said(ana) == {"joined": {}, "left": {"bea": {"name": "Bea"}}}
        async with second.client("/?name=ana") as again:
            assert (await again.receive())[1] == b"welcome"
            with anyio.fail_after(GUARD):
                while app.topic("room:1").present()["ana"].connections != 2:
                    await anyio.lowlevel.checkpoint()


@pytest_anyio
async def test_only_a_subscriber_can_be_tracked() -> None:
    class Outside(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            try:
                app.topic("room:1").track(conn, "ana")
            except TopicError as exc:
                conn.send(str(exc))

    app = make_app(None)
    app.route("/outside", Outside(), allowed_origins=["*"])
    async with serving(app) as server, server.client("/outside") as client:
        assert (await client.receive())[1] == b"only a subscriber of 'room:1' can be present there"
