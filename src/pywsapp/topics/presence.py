"""Who is in a topic, in all processes and on all machines.

Theory

There is no central list. Each process says on the topic itself who is there through it, and keeps what the others say.
So it works over every broker, a list costs no question, and what a dead process said dies with its lease.

    diff    counted, for each topic: who came, changed or left since the last one; at most every tenth of a second
    state   all who are there through this process, with the count of the last diff; in parts if they are many
    ask     that others, or one of them, send their state
    alive   on a topic of all processes, every few seconds; whoever is silent for longer than a lease is gone
    bye     the same of a process that stops in good order

A process that comes to a topic asks all others on it. A broker that loses messages loses the connection as well; after
each connect a process therefore sends its state, and asks for that of the others. A diff that does not follow the one
before is not taken; the state is asked for instead. So is that of a process which was silent for longer than its lease,
and then is not: it was stopped for a while, or cut off.

A user, named by a key, has one entry however many connections it has and wherever they are. What is shown of it is what
was said of it last. Whoever is gone and comes back within a tenth of a second, by reloading a page, has not been away.

Nothing here does I/O or asks for the time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from pywsapp.exceptions import TopicError

#: The topic on which processes say that they are alive.
ALIVE_TOPIC = "$pywsapp:alive"
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 15.0
MAX_KEY = 200
MAX_META_BYTES = 4096
#: How often it is looked for processes that are silent.
_LOOK_SECONDS = 0.5
_PART = 100
_MAX_SILENT = 1000

Event = dict[str, Any]
_Entry = tuple[float, int, Any]  # when it was said, how many connections, what


class Present(NamedTuple):
    """A user who is there.

    Args:
        meta: what was said of it last.
        connections: how many it has.
    """

    meta: Any
    connections: int


@dataclass(frozen=True, slots=True)
class PresenceDiff:
    """What has changed in a topic.

    Args:
        joined: users who were not there before, with what is said of them.
        left: users who are not there any more, with what was said of them.
        changed: users of whom something else is said now, each with what was said before and what is said now.
    """

    joined: dict[str, Any] = field(default_factory=dict)
    left: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)


class _Room:
    """One topic: who is here, who is elsewhere, who was when that was last told."""

    __slots__ = ("ask", "count", "dirty", "here", "keys", "nodes", "send_state", "settled", "told", "touched")

    def __init__(self, *, settled: bool) -> None:
        self.settled = settled
        self.here: dict[str, dict[Hashable, tuple[float, Any]]] = {}
        self.keys: dict[Hashable, str] = {}
        self.nodes: dict[str, tuple[int, dict[str, _Entry]]] = {}
        self.told: dict[str, Any] = {}
        self.touched: dict[str, None] = {}  # keys whose change is to be told to the app
        self.dirty: dict[str, None] = {}  # keys whose change is to be told to other processes
        self.count = 0
        self.ask: dict[str | None, None] = {}  # whose state is to be asked for; None for everybody's
        self.send_state = True  # instead of a diff: others may know of a room that was closed here before

    def local(self, key: str) -> _Entry | None:
        connections = self.here.get(key)
        if not connections:
            return None
        said, meta = max(connections.values(), key=lambda one: one[0])
        return said, len(connections), meta

    def present(self, key: str) -> Present | None:
        entries = [(entry, node) for node, (_, entries) in self.nodes.items() if (entry := entries.get(key))]
        local = self.local(key)
        if local is not None:
            entries.append((local, ""))
        if not entries:
            return None
        latest = max(entries, key=lambda one: (one[0][0], one[1]))
        return Present(latest[0][2], sum(entry[1] for entry, _ in entries))


class PresenceService:
    """The presence of all topics, as one process sees it.

    Args:
        node: this process's name.
        send: sends an event on a topic to all other processes.
        tell: tells the app of a change.
    """

    def __init__(
        self, node: str, send: Callable[[str, Event], None], tell: Callable[[str, PresenceDiff], None]
    ) -> None:
        self._node = node
        self._send = send
        self._tell = tell
        self._rooms: dict[str, _Room] = {}
        self._heard: dict[str, float] = {}
        self._silent: dict[str, None] = {}  # processes whose lease has ended
        self._active: dict[str, None] = {}  # rooms with something to be told
        self._next_beat = self._next_look = float("-inf")

    # -- what this process does --------------------------------------------------------------------------------------

    def open(self, topic: str, *, settled: bool) -> None:
        """Take part in a topic, for it has a subscriber here.

        Args:
            topic: which one.
            settled: whether it is known who is there, for there are no other processes.
        """
        if topic not in self._rooms:
            self._rooms[topic] = _Room(settled=settled)

    def ask(self, topic: str) -> None:
        """Ask all others who is there through them; once what they say on the topic comes."""
        room = self._rooms.get(topic)
        if room is not None:
            room.ask[None] = None
            self._active[topic] = None

    def settle(self, topic: str) -> None:
        """Take those for known who are there through others; the app is told of changes from now on."""
        room = self._rooms.get(topic)
        if room is not None and not room.settled:
            room.settled = True
            for key in room.touched.keys() - room.here.keys():
                present = room.present(key)
                if present is not None:
                    room.told[key] = present.meta
            self._active[topic] = None

    def close(self, topic: str) -> None:
        """Take part no more; all who were here have left."""
        room = self._rooms.pop(topic, None)
        if room is not None and room.count:
            self._send(topic, {"presence": "state", "n": 0, "all": {}})

    def track(self, topic: str, conn: Hashable, key: str, meta: Any, said: float) -> None:
        """Note that a connection is a user's, or what is said of it.

        Args:
            topic: which is open.
            conn: the connection.
            key: the user.
            meta: what is said: anything that JSON can say, at most 4 KiB of it.
            said: when, in seconds of a clock that all processes share.

        Raises:
            TopicError: the key is no text of 1 to 200 characters, or JSON cannot say the meta so briefly.
        """
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
            raise TopicError(f"the key of a user is a text of 1 to {MAX_KEY} characters")
        try:
            size = len(json.dumps(meta))
        except (TypeError, ValueError, RecursionError) as exc:
            raise TopicError(f"what is said of a user has to be something for JSON: {exc}") from None
        if size > MAX_META_BYTES:
            raise TopicError(f"what is said of a user may take {MAX_META_BYTES} bytes of JSON, not {size}")
        room = self._rooms[topic]
        before = room.keys.get(conn)
        if before is not None and before != key:
            self.untrack(topic, conn)
        room.keys[conn] = key
        room.here.setdefault(key, {})[conn] = (said, meta)
        self._touch(topic, room, key)

    def untrack(self, topic: str, conn: Hashable) -> None:
        """Note that a connection is no user's any more."""
        room = self._rooms.get(topic)
        key = room.keys.pop(conn, None) if room is not None else None
        if room is None or key is None:
            return
        connections = room.here[key]
        del connections[conn]
        if not connections:
            del room.here[key]
        self._touch(topic, room, key)

    def _touch(self, topic: str, room: _Room, key: str) -> None:
        room.touched[key] = room.dirty[key] = None
        self._active[topic] = None

    def present(self, topic: str) -> dict[str, Present]:
        """Give who is there; the app is told of what has changed first, so that the next change is one to this."""
        room = self._rooms.get(topic)
        if room is None:
            return {}
        self._tell_changes(topic, room)
        keys = dict.fromkeys(room.here)
        for _, entries in room.nodes.values():
            keys.update(dict.fromkeys(entries))
        return {key: entry for key in keys if (entry := room.present(key))}

    # -- what others say ---------------------------------------------------------------------------------------------

    def receive(self, topic: str, node: str, event: Event, now: float) -> None:
        """Take an event of another process; what is none of those above is passed over."""
        if node == self._node or not node:
            return
        kind = event.get("presence")
        self._heard[node] = now
        if topic == ALIVE_TOPIC:
            self._receive_for_all(node, kind, event)
        elif topic in self._rooms:
            room = self._rooms[topic]
            if kind == "ask" and event.get("of") in (None, self._node):
                self._resend(topic, room)
            elif kind in ("diff", "state"):
                self._take(topic, room, node, event)

    def _receive_for_all(self, node: str, kind: Any, event: Event) -> None:
        if kind == "bye":
            self._forget(node)
        elif kind == "ask" and event.get("of") == self._node:
            for topic, room in self._rooms.items():
                self._resend(topic, room)
        elif node in self._silent:
            del self._silent[node]
            self._send(ALIVE_TOPIC, {"presence": "ask", "of": node})

    def _resend(self, topic: str, room: _Room) -> None:
        if room.here:
            room.send_state = True
            self._active[topic] = None

    def _take(self, topic: str, room: _Room, node: str, event: Event) -> None:
        count, entries = event.get("n"), _entries(event.get("all" if event["presence"] == "state" else "set"))
        gone = event.get("gone", [])
        if type(count) is not int or entries is None or not isinstance(gone, list):
            return
        last: int
        known: dict[str, _Entry]
        last, known = room.nodes.get(node, (-1, {}))
        self._active[topic] = None
        if event["presence"] == "state":
            if not event.get("more"):
                room.touched.update(dict.fromkeys(known))
                known = {}
        elif last < 0 or count > last + 1:
            room.ask[node] = None
            return
        elif count <= last:
            return
        for key in gone:
            if isinstance(key, str) and known.pop(key, None) is not None:
                room.touched[key] = None
        known.update(entries)
        room.touched.update(dict.fromkeys(entries))
        room.nodes[node] = (count, known)

    def _forget(self, node: str) -> None:
        self._heard.pop(node, None)
        for topic, room in self._rooms.items():
            known = room.nodes.pop(node, None)
            if known is not None:
                room.touched.update(dict.fromkeys(known[1]))
                self._active[topic] = None

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Learn the time, in seconds; called about every tenth of a second. Sends and tells what has changed."""
        if now >= self._next_beat:
            self._next_beat = now + HEARTBEAT_SECONDS
            self._send(ALIVE_TOPIC, {"presence": "alive"})
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            for node in [node for node, heard in self._heard.items() if now - heard > LEASE_SECONDS]:
                self._forget(node)
                self._silent[node] = None
                while len(self._silent) > _MAX_SILENT:
                    del self._silent[next(iter(self._silent))]
        active, self._active = self._active, {}
        for topic in active:
            room = self._rooms.get(topic)
            if room is not None:
                self._send_changes(topic, room)
                self._tell_changes(topic, room)

    def connected(self) -> None:
        """Take note of a new connection to the broker: all is said anew, and asked anew."""
        self._next_beat = float("-inf")
        for topic, room in self._rooms.items():
            room.ask[None] = None
            self._resend(topic, room)
            self._active[topic] = None

    def stop(self) -> None:
        """Say goodbye."""
        self._send(ALIVE_TOPIC, {"presence": "bye"})

    def _send_changes(self, topic: str, room: _Room) -> None:
        if room.send_state and room.dirty.keys() | room.here.keys():
            room.send_state, room.dirty = False, {}
            room.count += 1
            for number, part in enumerate(_parts(room.here) or [[]]):
                event = {"presence": "state", "n": room.count, "all": {key: room.local(key) for key in part}}
                self._send(topic, {**event, "more": True} if number else event)
        for part in _parts(room.dirty):
            self._send(topic, self._diff(room, part))
        room.dirty = {}
        for node in room.ask:
            self._send(topic, {"presence": "ask"} if node is None else {"presence": "ask", "of": node})
        room.ask = {}

    def _diff(self, room: _Room, keys: list[str]) -> Event:
        room.count += 1
        entries = {key: room.local(key) for key in keys}
        gone = [key for key, entry in entries.items() if entry is None]
        return {
            "presence": "diff",
            "n": room.count,
            "set": {key: entry for key, entry in entries.items() if entry is not None},
            "gone": gone,
        }

    def _tell_changes(self, topic: str, room: _Room) -> None:
        if not room.settled:
            return
        touched, room.touched = room.touched, {}
        diff = PresenceDiff()
        for key in touched:
            present = room.present(key)
            if present is None:
                if key in room.told:
                    diff.left[key] = room.told.pop(key)
            elif key not in room.told:
                diff.joined[key] = room.told[key] = present.meta
            elif room.told[key] != present.meta:
                diff.changed[key] = (room.told[key], present.meta)
                room.told[key] = present.meta
        if diff.joined or diff.left or diff.changed:
            self._tell(topic, diff)


def _parts(keys: Iterable[str]) -> list[list[str]]:
    found, iterator = [], iter(keys)
    while part := list(islice(iterator, _PART)):
        found.append(part)
    return found


def _entries(found: Any) -> dict[str, _Entry] | None:
    """Read `{key: [said, connections, meta]}`; None if it is not that."""
    if not isinstance(found, dict):
        return None
    entries: dict[str, _Entry] = {}
    for key, entry in found.items():
        if not isinstance(entry, (list, tuple)) or len(entry) != 3:
            return None
        said, connections, meta = entry
        if not isinstance(said, (int, float)) or type(connections) is not int or connections < 1:
            return None
        entries[key] = (float(said), connections, meta)
    return entries
