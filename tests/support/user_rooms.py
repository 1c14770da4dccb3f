"""Rooms whose clients have users, for tests of `app.users`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from pywsapp import App, Connection, Request
from pywsapp.brokers.base import Broker
from pywsapp.topics.users.users import UserConnections
from support.serving import Client
from support.topic_rooms import Rooms


def by_query(request: Request) -> Any:
    """Accept requests whose query string names a user."""
    return request.query_string or None


class Members(Rooms):
    """Rooms with a guard; a client connects as a user by its path: "/?ana"."""

    def __init__(self, broker: Broker | None = None, **settings: Any) -> None:
        settings.setdefault("authenticate", by_query)
        super().__init__(broker, **settings)

    def user(self, user: Any = "ana") -> UserConnections:
        return self.app.users[user]

    async def enter(self, clients: AsyncExitStack, user: str = "ana", path: str = "/") -> tuple[Client, Connection]:
        """Connect a client as a user."""
        return await self.connect(clients, None, path=f"{path}?{user}")


def subscribes(app: App) -> bool:
    """Return whether the broker delivers events about users."""
    relay = app.topics.relay
    return relay is not None and "$pywsapp:users" in relay._active
