"""The users in a topic, in all processes and on all machines, as one process sees them. No I/O and no clock here.

Theory

There is no central list. Each process publishes on the topic itself which users are connected to it, and remembers what
the others publish. So presence works over every broker, reading the list needs no request, and the entries of a dead
process expire with its lease. These are the events:

    diff    numbered for each topic: the users that came, changed or left since the last diff; at most every 0.1 s
    state   all users of this process, with the number of the last diff; in parts if they are many
    ask     a request to all processes, or to one, to publish their state
    alive   on a topic that all processes subscribe to, every few seconds; a process that is silent for longer than
            its lease is taken for dead
    bye     on the same topic: this process shuts down, or another one has ended, whose end the supervisor has seen

A process that opens a topic asks all others for their state. A broker that loses messages also loses the connection. So
after each connect a process publishes its state and asks the others for theirs. A diff that does not follow the last
one is not applied; the state is asked for instead. A process that was silent for longer than its lease and is heard
again was suspended or disconnected, so its state is asked for, too.

A user, identified by a key, has one entry for all its connections in all processes. The entry shows the meta that was
set last. A user that leaves and comes back within a tenth of a second, by reloading a page, has not left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable
from itertools import islice
from typing import Any

from pywsapp.exceptions import TopicError
from pywsapp.options import Options
from pywsapp.topics.names import RESERVED
from pywsapp.topics.presence.events import (
    ALIVE_TOPIC,
    MAX_KEY,
    MAX_META_BYTES,
    MAX_PROCESSES,
    PART,
    Change,
    Event,
    RemoteUsers,
    is_key,
    parse_change,
)
from pywsapp.topics.presence.topic_presence import PresenceDiff, Present, TopicPresence

#: Seconds between two alive events of a process, and until a silent process is taken for dead.
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 15.0
#: Seconds between two checks of the leases.
_CHECK_SECONDS = 0.5
#: Processes whose lease has expired that are remembered, and processes that have ended.
_MAX_EXPIRED = 1000


class PresenceView:
    """The presence of all topics, as one process sees it. The presence service creates it.

    Args:
        process: the name of this process.
        send: sends an event on a topic to all other processes.
        report: reports changes to the app.
        max_bytes: the bytes of the users of other processes.

    Attributes:
        left_out: how many users of other processes were left out, because there were too many of them or of processes.
    """

    def __init__(
        self,
        process: str,
        send: Callable[[str, Event], None],
        report: Callable[[str, PresenceDiff], None],
        max_bytes: int = Options().max_presence_bytes,
    ) -> None:
        self._max_bytes = max_bytes
        self._process = process
        self._send = send
        self._report = report
        self._topics: dict[str, TopicPresence] = {}
        self.left_out = 0
        self._size = 0  # bytes of the users of other processes
        self._last_event: dict[str, float] = {}  # when each other process was last heard, in seconds
        self._expired: dict[str, None] = {}  # processes whose lease has expired
        self._ended: dict[str, None] = {}  # processes that have ended
        self._changed: dict[str, None] = {}  # topics with something to send or to report
        self._next_alive = self._next_check = float("-inf")

    # -- this process ------------------------------------------------------------------------------------------------

    @property
    def present_here(self) -> int:
        """The users of connections of this process, once in each topic; topics of this library do not count."""
        return sum(len(topic.connections) for name, topic in self._topics.items() if not name.startswith(RESERVED))

    def open(self, name: str, *, settled: bool) -> None:
        """Begin with a topic, because it has a subscriber in this process.

        Args:
            name: the topic's name.
            settled: whether there are no other processes, so that all users are known.
        """
        if name not in self._topics:
            self._topics[name] = TopicPresence(settled=settled)

    def ask(self, name: str) -> None:
        """Request the state of all other processes; call it when their events on the topic are received."""
        topic = self._topics.get(name)
        if topic is not None:
            topic.ask[None] = None
            self._changed[name] = None

    def settle(self, name: str) -> None:
        """Note that the users of other processes are known; from now on changes are reported to the app."""
        topic = self._topics.get(name)
        if topic is not None and not topic.settled:
            topic.settled = True
            for key in topic.unreported.keys() - topic.connections.keys():
                present = topic.present(key)
                if present is not None:
                    topic.reported[key] = present.meta
            self._changed[name] = None

    def close(self, name: str) -> None:
        """End with a topic, because its last subscriber in this process has unsubscribed."""
        topic = self._topics.pop(name, None)
        if topic is not None:
            self._size -= sum(users.size for users in topic.others.values())
        if topic is not None and topic.number:
            self._send(name, {"presence": "state", "n": 0, "all": {}})

    def track(self, name: str, conn: Hashable, key: str, meta: Any, set_at: float) -> None:
        """Mark a connection as a user's, or change the user's meta.

        Args:
            name: of a topic that is open.
            conn: the connection.
            key: the user.
            meta: serialisable as JSON, at most 4 KiB.
            set_at: the time in seconds, of a clock that all processes share.

        Raises:
            TopicError: the key is not a text of 1 to 200 characters, or the meta is invalid.
        """
        if not is_key(key):
            raise TopicError(f"the key of a user is a text of 1 to {MAX_KEY} characters")
        try:
            size = len(json.dumps(meta))
        except (TypeError, ValueError, RecursionError) as exc:
            raise TopicError(f"the meta of a user must be serialisable as JSON: {exc}") from None
        if size > MAX_META_BYTES:
            raise TopicError(f"the meta of a user is limited to {MAX_META_BYTES} bytes of JSON; this has {size}")
        topic = self._topics[name]
        before = topic.keys.get(conn)
        if before is not None and before != key:
            self.untrack(name, conn)
        topic.keys[conn] = key
        topic.connections.setdefault(key, {})[conn] = (set_at, meta)
        self._note_local_change(name, topic, key)

    def untrack(self, name: str, conn: Hashable) -> None:
        """Mark a connection as no user's any more; nothing if it is none's."""
        topic = self._topics.get(name)
        key = topic.keys.pop(conn, None) if topic is not None else None
        if topic is None or key is None:
            return
        connections = topic.connections[key]
        del connections[conn]
        if not connections:
            del topic.connections[key]
        self._note_local_change(name, topic, key)

    def _note_local_change(self, name: str, topic: TopicPresence, key: str) -> None:
        topic.unreported[key] = topic.unsent[key] = None
        self._changed[name] = None

    def present(self, name: str) -> dict[str, Present]:
        """Return the users of a topic. Changes are reported first, so that the next report is a change to this."""
        topic = self._topics.get(name)
        if topic is None:
            return {}
        self._report_changes(name, topic)
        keys = dict.fromkeys(topic.connections)
        for users in topic.others.values():
            keys.update(dict.fromkeys(users.entries))
        return {key: entry for key in keys if (entry := topic.present(key))}

    def elsewhere(self, name: str) -> set[str]:
        """Return the keys of the users of a topic in other processes."""
        topic = self._topics.get(name)
        return set() if topic is None else {key for users in topic.others.values() for key in users.entries}

    # -- other processes ---------------------------------------------------------------------------------------------

    def receive(self, name: str, process: str, event: Event, now: float) -> bool:
        """Handle an event of another process; return False if it is invalid, and then ignore it.

        Events of a process that has ended are ignored as well, but they are not invalid.
        """
        kind = event.get("presence")
        if process == self._process or not 0 < len(process) <= MAX_KEY or not isinstance(kind, str):
            return False
        if process in self._ended:
            return True
        if kind == "bye" and not is_key(event.get("of", process)):
            return False
        parsed = parse_change(event) if kind in ("diff", "state") else None
        if kind in ("diff", "state") and parsed is None:
            return False
        if process not in self._last_event and len(self._last_event) >= MAX_PROCESSES:
            self.left_out += 1
            return True
        self._last_event[process] = now
        if name == ALIVE_TOPIC:
            self._receive_for_all(process, kind, event)
        elif name in self._topics:
            topic = self._topics[name]
            if kind == "ask" and event.get("of") in (None, self._process):
                self._send_state_soon(name, topic)
            elif parsed is not None:
                self._apply(name, topic, process, parsed)
        return True

    def _receive_for_all(self, process: str, kind: Any, event: Event) -> None:
        if kind == "bye" and "of" in event:
            self.end(event["of"])
        elif kind == "bye":
            self._remove_process(process)
        elif kind == "ask" and event.get("of") == self._process:
            for name, topic in self._topics.items():
                self._send_state_soon(name, topic)
        elif process in self._expired:
            del self._expired[process]
            self._send(ALIVE_TOPIC, {"presence": "ask", "of": process})

    def _send_state_soon(self, name: str, topic: TopicPresence) -> None:
        if topic.connections:
            topic.send_state = True
            self._changed[name] = None

    def _apply(self, name: str, topic: TopicPresence, process: str, change: Change) -> None:
        users = topic.others.get(process) or RemoteUsers()
        before = users.size if process in topic.others else 0
        self._changed[name] = None
        if change.is_whole:
            topic.unreported.update(dict.fromkeys(users.entries))
            users = RemoteUsers()
        elif not change.is_part and (users.number < 0 or change.number > users.number + 1):
            topic.ask[process] = None
            return
        elif not change.is_part and change.number <= users.number:
            return
        room = self._max_bytes - self._size + before
        if users.size > room:  # of a process that is not known in this topic yet
            self.left_out += max(1, len(change.entries))
            return
        for key in change.gone:
            if users.remove(key):
                topic.unreported[key] = None
        for key, entry in change.entries.items():
            self.left_out += not users.set(key, entry, room)
        topic.unreported.update(dict.fromkeys(change.entries))
        users.number = change.number
        topic.others[process] = users
        self._size += users.size - before

    def end(self, process: str) -> None:
        """Remove a process that has ended; its events that are still on their way are ignored."""
        if process != self._process:
            self._remove_process(process)
            self._ended[process] = None
            while len(self._ended) > _MAX_EXPIRED:
                del self._ended[next(iter(self._ended))]

    def _remove_process(self, process: str) -> None:
        self._last_event.pop(process, None)
        for name, topic in self._topics.items():
            removed = topic.others.pop(process, None)
            if removed is not None:
                self._size -= removed.size
                topic.unreported.update(dict.fromkeys(removed.entries))
                self._changed[name] = None

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send and report what has changed; call it about every tenth of a second with the time in seconds."""
        if now >= self._next_alive:
            self._next_alive = now + HEARTBEAT_SECONDS
            self._send(ALIVE_TOPIC, {"presence": "alive"})
        if now >= self._next_check:
            self._next_check = now + _CHECK_SECONDS
            for process in [process for process, at in self._last_event.items() if now - at > LEASE_SECONDS]:
                self._remove_process(process)
                self._expired[process] = None
                while len(self._expired) > _MAX_EXPIRED:
                    del self._expired[next(iter(self._expired))]
        changed, self._changed = self._changed, {}
        for name in changed:
            topic = self._topics.get(name)
            if topic is not None:
                self._send_changes(name, topic)
                self._report_changes(name, topic)

    def connected(self) -> None:
        """Handle a new connection to the broker: send the state of all topics, and ask for that of the others."""
        self._next_alive = float("-inf")
        for name, topic in self._topics.items():
            topic.ask[None] = None
            self._send_state_soon(name, topic)
            self._changed[name] = None

    def stop(self) -> None:
        """Send to the other processes that this one shuts down."""
        self._send(ALIVE_TOPIC, {"presence": "bye"})

    def _send_changes(self, name: str, topic: TopicPresence) -> None:
        if topic.send_state and topic.unsent.keys() | topic.connections.keys():
            topic.send_state, topic.unsent = False, {}
            topic.number += 1
            for number, part in enumerate(_parts(topic.connections) or [[]]):
                entries = {key: topic.local_entry(key) for key in part}
                event = {"presence": "state", "n": topic.number, "all": entries}
                self._send(name, {**event, "more": True} if number else event)
        for part in _parts(topic.unsent):
            self._send(name, self._diff(topic, part))
        topic.unsent = {}
        for process in topic.ask:
            self._send(name, {"presence": "ask"} if process is None else {"presence": "ask", "of": process})
        topic.ask = {}

    def _diff(self, topic: TopicPresence, keys: list[str]) -> Event:
        topic.number += 1
        entries = {key: topic.local_entry(key) for key in keys}
        gone = [key for key, entry in entries.items() if entry is None]
        return {
            "presence": "diff",
            "n": topic.number,
            "set": {key: entry for key, entry in entries.items() if entry is not None},
            "gone": gone,
        }

    def _report_changes(self, name: str, topic: TopicPresence) -> None:
        if not topic.settled:
            return
        unreported, topic.unreported = topic.unreported, {}
        reported = topic.reported
        diff = PresenceDiff()
        for key in unreported:
            present = topic.present(key)
            if present is None:
                if key in reported:
                    diff.left[key] = reported.pop(key)
            elif key not in reported:
                diff.joined[key] = reported[key] = present.meta
            elif reported[key] != present.meta:
                diff.changed[key] = (reported[key], present.meta)
                reported[key] = present.meta
        if diff.joined or diff.left or diff.changed:
            self._report(name, diff)


def _parts(keys: Iterable[str]) -> list[list[str]]:
    found, iterator = [], iter(keys)
    while part := list(islice(iterator, PART)):
        found.append(part)
    return found
