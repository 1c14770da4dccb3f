"""The numbers of one worker, which it writes to a file: connections, topics, tasks, objects and memory blocks.

A sample is a JSON object in `<process id>.json`. The file is replaced twice a second. If the directory has a file
`thorough` with a number, the next sample follows a full garbage collection, has the number of objects of each type, and
that number.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio

from pywsapp import App

#: Types whose objects must not outlive the clients.
TRACKED = {
    "Connection": "pywsapp.connection.Connection",
    "ClientConnection": "pywsapp.client.ClientConnection",
    "Lifecycle": "pywsapp._lifecycle.lifecycle.Lifecycle",
    "WebSocket": "pywsapp._protocol.websocket.WebSocket",
    "HttpConnection": "pywsapp._server.http_connection.HttpConnection",
    "Topic": "pywsapp.topics.topic.Topic",
    "Request": "pywsapp.http.Request",
    "coroutine": "builtins.coroutine",
}
#: The most frequent types that a thorough sample has.
_MOST_COMMON = 60


class Sampler:
    """Writes the numbers of one worker.

    Args:
        app: the application.
        directory: an existing directory.

    Attributes:
        seconds: between two samples.
    """

    seconds = 0.5

    def __init__(self, app: App, directory: Path) -> None:
        self._app = app
        self._directory = directory
        self._file = directory / f"{os.getpid()}.json"
        self._thorough: dict[str, Any] = {"thorough": 0}

    def sample(self) -> None:
        """Write the file."""
        number = requested(self._directory)
        if number != self._thorough["thorough"]:
            self._thorough = {"thorough": number, **objects()}
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps({**numbers(self._app), **self._thorough}))
        temporary.replace(self._file)


def requested(directory: Path) -> int:
    """Return the number of the latest thorough sample that was requested; 0 if none was."""
    try:
        return int((directory / "thorough").read_text())
    except (OSError, ValueError):
        return 0


def request(directory: Path, number: int) -> None:
    """Request a thorough sample of all workers."""
    temporary = directory / "thorough.new"
    temporary.write_text(str(number))
    temporary.replace(directory / "thorough")


def numbers(app: App) -> dict[str, Any]:
    """Return what the process has now."""
    stats, relay = app.stats(), app.topics.relay
    broker = stats.topics.broker
    return {
        "worker": app.worker,
        "tasks": len(anyio.get_running_tasks()),
        "connections": stats.open_connections,
        "pending_connections": stats.pending_connections,
        "topics": stats.topics.topics,
        "subscriptions": sum(len(topic) for topic in app.topics.active()),
        "users": len(app.topics.users._index or ()),
        "broker_connected": broker is not None and broker.connected,
        "broker_subscriptions": 0 if relay is None else len(relay._active),
        "unpublished": 0 if broker is None else broker.pending,
        "awaited_subscriptions": 0 if relay is None else len(relay._awaited),
        "handshakes": stats.handshakes,
        "dropped": stats.topics.dropped,
        "lost": stats.topics.lost,
        "skipped": stats.topics.skipped,
        "uncollectable": len(gc.garbage) + sum(generation["uncollectable"] for generation in gc.get_stats()),
        "limits": dict(stats.limits),
        "refused": _named(stats.refused),
        "blocks": sys.getallocatedblocks(),
    }


def objects() -> dict[str, Any]:
    """Collect garbage, and return how many objects of each type there are, and the memory blocks in use."""
    gc.collect()
    blocks = sys.getallocatedblocks()
    types = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    return {
        "settled_blocks": blocks,
        "running": dict(Counter(getattr(each.coro, "__qualname__", "?") for each in anyio.get_running_tasks())),
        "types": dict(types.most_common(_MOST_COMMON)),
        **{f"objects {name}": types[path] for name, path in TRACKED.items()},
    }


def _named(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(key): count for key, count in counts.items()}
