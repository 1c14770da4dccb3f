"""The events by which processes exchange presence: their limits, and parsing what other processes sent.

A program that can write to the broker can send any event. So an event is applied only if a process could have sent it,
and the bytes that the users of other processes take are counted.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pywsapp.topics.names import RESERVED

#: The topic of the events alive and bye.
ALIVE_TOPIC = f"{RESERVED}alive"
#: Characters of a user's key.
MAX_KEY = 200
#: Bytes of a user's meta as JSON.
MAX_META_BYTES = 4096
#: Other processes that are known.
MAX_PROCESSES = 1000
#: Connections of a user in one process, and the largest number and time in an event.
MAX_CONNECTIONS = 10**6
MAX_NUMBER = 2**53
MAX_TIME = 1e11
#: Bytes that a user takes beside the key and the meta, and each value and object of the meta.
USER_BYTES = 460
#: Bytes that another process takes in a topic, with or without users.
PROCESS_BYTES = 240
_VALUE_BYTES = 64
_OBJECT_BYTES = 240
#: Users in one event.
PART = 100

Event = dict[str, Any]
#: When the meta was set, the number of connections, the meta.
Entry = tuple[float, int, Any]
#: The same with the bytes that a user of another process takes.
RemoteEntry = tuple[float, int, Any, int]


class RemoteUsers:
    """The users of one topic in another process.

    Attributes:
        number: of the last event; -1 before the first one.
        entries: the users by their keys.
        size: the bytes that they take, and the process in this topic.
    """

    __slots__ = ("entries", "number", "size")

    def __init__(self) -> None:
        self.number = -1
        self.entries: dict[str, RemoteEntry] = {}
        self.size = PROCESS_BYTES

    def remove(self, key: str) -> bool:
        """Remove a user; return whether there was one."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.size -= entry[3]
        return entry is not None

    def set(self, key: str, entry: RemoteEntry, room: int) -> bool:
        """Add or replace a user; return False, and leave the user out, if there is not so much room, in bytes."""
        self.remove(key)
        if self.size + entry[3] > room:
            return False
        self.entries[key] = entry
        self.size += entry[3]
        return True


class Change(NamedTuple):
    """A valid diff or state.

    Args:
        number: of the event.
        entries: the users that came or changed.
        gone: the users that left.
        is_whole: whether it is a state, or the first part of one, which replaces what was known.
        is_part: whether it is a further part of a state.
    """

    number: int
    entries: dict[str, RemoteEntry]
    gone: list[str]
    is_whole: bool
    is_part: bool


def parse_change(event: Event) -> Change | None:
    """Parse a diff or a state; return None if something in it is invalid or larger than a process sends."""
    is_state = event["presence"] == "state"
    is_part = is_state and bool(event.get("more"))
    number, found, gone = event.get("n"), event.get("all" if is_state else "set"), event.get("gone", [])
    if type(number) is not int or not 0 <= number <= MAX_NUMBER:
        return None
    if not isinstance(found, dict) or not isinstance(gone, list) or len(found) + len(gone) > PART:
        return None
    if not all(map(is_key, gone)):
        return None
    entries: dict[str, RemoteEntry] = {}
    for key, value in found.items():
        entry = _parse_entry(key, value)
        if entry is None:
            return None
        entries[key] = entry
    return Change(number, entries, gone, is_state and not is_part, is_part)


def _parse_entry(key: str, value: Any) -> RemoteEntry | None:
    """Parse `[set_at, connections, meta]` of a user; return None if it is something else."""
    if not is_key(key) or not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    set_at, connections, meta = value
    if type(set_at) not in (int, float) or not 0 <= set_at <= MAX_TIME:
        return None
    if type(connections) is not int or not 1 <= connections <= MAX_CONNECTIONS:
        return None
    try:
        text = "" if meta is None else json.dumps(meta)
    except (ValueError, RecursionError):
        return None
    if len(text) > MAX_META_BYTES:
        return None
    return float(set_at), connections, meta, bytes_of_user(key, text)


def bytes_of_user(key: str, meta: str) -> int:
    """Return how many bytes a user takes at most, from the key and the text of the meta, in JSON or of `repr`."""
    values, objects = meta.count(",") + meta.count("["), meta.count("{")
    return USER_BYTES + len(key) + len(meta) + _VALUE_BYTES * values + _OBJECT_BYTES * objects


def is_key(key: object) -> bool:
    """Return whether this can be the key of a user."""
    return isinstance(key, str) and 0 < len(key) <= MAX_KEY
