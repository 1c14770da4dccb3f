"""The presence of one topic, as one process sees it, and what the application gets of it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pywsapp.topics.presence.events import Entry, RemoteEntry, RemoteUsers


class Present(NamedTuple):
    """A user who is in a topic.

    Args:
        meta: the user's meta that was set last.
        connections: the number of the user's connections.
    """

    meta: Any
    connections: int


@dataclass(frozen=True, slots=True)
class PresenceDiff:
    """The changes of presence in a topic.

    Args:
        joined: users who came, with their meta.
        left: users who left, with their last meta.
        changed: users whose meta changed, with the old and the new meta.
    """

    joined: dict[str, Any] = field(default_factory=dict)
    left: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)


class TopicPresence:
    """The presence of one topic: users of this process, users of others, and what was reported to the app.

    Attributes:
        settled: whether the users of other processes are known, so that changes are reported.
        connections: the connections of each user of this process, with the time and the meta of `track`.
        keys: the user of each connection.
        others: the users of each other process.
        reported: the users that the app knows of, with their meta.
        unreported: users whose change is not reported to the app yet.
        unsent: users whose change is not sent to other processes yet.
        number: of the last diff or state of this process.
        ask: the processes to ask for their state; None for all of them.
        send_state: whether to send the state instead of a diff. True at first, since others may remember entries from
            before the topic was closed here.
    """

    __slots__ = (
        "ask",
        "connections",
        "keys",
        "number",
        "others",
        "reported",
        "send_state",
        "settled",
        "unreported",
        "unsent",
    )

    def __init__(self, *, settled: bool) -> None:
        self.settled = settled
        self.connections: dict[str, dict[Hashable, tuple[float, Any]]] = {}
        self.keys: dict[Hashable, str] = {}
        self.others: dict[str, RemoteUsers] = {}
        self.reported: dict[str, Any] = {}
        self.unreported: dict[str, None] = {}
        self.unsent: dict[str, None] = {}
        self.number = 0
        self.ask: dict[str | None, None] = {}
        self.send_state = True

    def local_entry(self, key: str) -> Entry | None:
        """Return the entry of a user for the connections of this process; None without any."""
        connections = self.connections.get(key)
        if not connections:
            return None
        set_at, meta = max(connections.values(), key=lambda one: one[0])
        return set_at, len(connections), meta

    def present(self, key: str) -> Present | None:
        """Return a user with the connections of all processes; None if the user is not present."""
        entries: list[tuple[Entry | RemoteEntry, str]] = [
            (entry, process) for process, users in self.others.items() if (entry := users.entries.get(key)) is not None
        ]
        local = self.local_entry(key)
        if local is not None:
            entries.append((local, ""))
        if not entries:
            return None
        latest = max(entries, key=lambda one: (one[0][0], one[1]))
        return Present(latest[0][2], sum(entry[1] for entry, _ in entries))
