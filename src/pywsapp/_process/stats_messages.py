"""Numbers of several processes: their sums, and their form between processes.

Between processes, numbers are JSON: each class of numbers is the list of its values, in the order of its fields.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pywsapp._histogram import BOUNDS, HistogramStats
from pywsapp.stats import Stats
from pywsapp.topics.topic_stats import TopicStats

NumbersT = TypeVar("NumbersT")

#: The numbers of no process.
NO_STATS = Stats(
    open_connections=0,
    pending_connections=0,
    accepted_connections=0,
    evicted_connections=0,
    handshakes=0,
    refused={},
    limits={},
    rate_limits={},
    topics=TopicStats(0, 0, 0, 0, None),
)

#: The fields that say what is now. All others are counted, and stay when their process has ended.
GAUGES = frozenset(
    {
        "connected",
        "histories",
        "history_bytes",
        "lag",
        "memory",
        "open_connections",
        "outbox_bytes",
        "pending",
        "pending_connections",
        "present",
        "queued_bytes",
        "queued_messages",
        "slow_connections",
        "subscriptions",
        "tasks",
        "topics",
    }
)


#: Of these fields, the greatest value of all processes is the total.
_GREATEST = frozenset({"lag"})


def added(numbers: Iterable[Any]) -> Any:
    """Return the sum of numbers of one kind; None counts as nothing."""
    found = [one for one in numbers if one is not None]
    if not found:
        return None
    first = found[0]
    if isinstance(first, Mapping):
        keys = dict.fromkeys(key for one in found for key in one)
        return {key: added(one.get(key) for one in found) for key in keys}
    kind: Any = type(first)
    if is_numbers(kind):
        values = {name: [getattr(one, name) for one in found] for name in names_of(kind)}
        return kind(**{name: max(own) if name in _GREATEST else added(own) for name, own in values.items()})
    if isinstance(first, tuple):
        return tuple(map(sum, zip(*found, strict=True)))
    return sum(found)


def without_gauges(numbers: NumbersT) -> NumbersT:
    """Return numbers with 0 for everything that says what is now: those of a process that has ended."""

    def kept(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: kept("", inner) for key, inner in value.items()}
        if is_numbers(type(value)):
            return without_gauges(value)
        return type(value)(0) if name in GAUGES else value

    kind: Any = type(numbers)
    return kind(**{name: kept(name, getattr(numbers, name)) for name in names_of(kind)})  # type: ignore[no-any-return]


def to_json(value: Any) -> Any:
    """Return numbers in their form between processes, which `json.dumps` can write."""
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    kind: Any = type(value)
    if is_numbers(kind):
        return [to_json(getattr(value, name)) for name in names_of(kind)]
    return value


def from_json(value: Any) -> Stats:
    """Return the numbers of a process from their form between processes.

    Raises:
        TypeError: it is no such form.
        ValueError: it is no such form.
    """
    stats: Stats = read(Stats, value)
    return stats


def read(kind: Any, value: Any) -> Any:
    """Return an object of a class of numbers, or of another annotation, from its form between processes.

    Raises:
        TypeError: it is no such form.
        ValueError: it is no such form.
    """
    arguments = get_args(kind)
    origin = get_origin(kind)
    if type(None) in arguments:
        return None if value is None else read(arguments[0], value)
    if origin is not None and origin is not Union and issubclass(origin, Mapping):
        key_type, inner = arguments
        return {key_type(key): read(inner, one) for key, one in value.items()}
    if origin is tuple:
        return tuple(read(arguments[0], one) for one in value)
    if is_numbers(kind):
        hints = hints_of(kind)
        found = kind(**{name: read(hints[name], one) for name, one in zip(names_of(kind), value, strict=True)})
        if isinstance(found, HistogramStats) and len(found.buckets) != len(BOUNDS) + 1:
            raise ValueError(f"a histogram has {len(found.buckets)} buckets")  # it cannot be added to others
        return found
    return kind(value)


def is_numbers(kind: Any) -> bool:
    """Return whether a type is a class of numbers: a dataclass or a NamedTuple."""
    return is_dataclass(kind) or hasattr(kind, "_fields")


@functools.cache
def names_of(kind: Any) -> tuple[str, ...]:
    """Return the names of the fields of a class of numbers."""
    return tuple(one.name for one in fields(kind)) if is_dataclass(kind) else kind._fields


@functools.cache
def hints_of(kind: Any) -> dict[str, Any]:
    """Return the types of the fields of a class of numbers."""
    return get_type_hints(kind)
