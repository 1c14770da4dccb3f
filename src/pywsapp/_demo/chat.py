"""A chat with names and rooms: the page and the topics behind it, on one port, in any number of processes.

The page uses the browser client, `pywsapp.js`, which reconnects and recovers what was missed. It subscribes to topics:

    people       whose presence has all people: {"name": ..., "room": ...} for each page
    room:ROOM    the messages of a room: {"name": ..., "text": ..., "time": seconds since 1970}; the last ones are kept

The page enters a room by being present in `people`, and changes its name or its room in the same way. It writes by
publishing a text on the topic of its room.

The token of a page is a secret that it makes. It names the person, so a page whose connection broke comes back as the
same person.
"""

from __future__ import annotations

import time
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from unicodedata import category, normalize

from pywsapp import (
    App,
    Broker,
    CallError,
    ConfigurationError,
    Connection,
    Options,
    Response,
    Topic,
    TopicComponent,
    TopicRules,
)

MAX_NAME, MAX_ROOM, MAX_TEXT = 32, 32, 2000  # characters
MAX_ROOMS, HISTORY = 100, 50  # rooms with people in them, and messages of a room that are kept
BURST, PER_SECOND = 10, 2  # requests that a connection may send at once, and on average per second
JOINERS = "\u200c\u200d"  # not printable, but needed in Persian words and in emoji
PEOPLE, ROOMS = "people", "room:*"
KEEP_SECONDS = 24 * 3600
POLICY = (  # scripts and styles are files of this server
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
RULES = TopicRules(subscribe=[PEOPLE, ROOMS], presence=[PEOPLE], history=[ROOMS], publish=[ROOMS])


class Chat(TopicComponent):
    """The chat: one instance for all connections of a process. The text of each `CallError` is for the user."""

    def __init__(self, app: App) -> None:
        self.people = app.topic(PEOPLE)

    def authenticate_token(self, token: str) -> str | None:
        return sha256(token.encode("utf-8", "replace")).hexdigest() if 16 <= len(token) <= 64 else None

    def on_open(self, conn: Connection) -> None:
        conn.state.allowance, conn.state.asked_at = BURST, time.monotonic()

    def on_track(self, conn: Connection, topic: Topic, meta: Any) -> dict[str, str]:
        """Return the room of a person and the name, which gets a number if it is taken in this room."""
        spend(conn)
        match meta:
            case {"name": str(name), "room": str(room)}:
                name, room = tidy(name)[:MAX_NAME].strip(), tidy(room).lower()
            case _:
                raise CallError("invalid_person", "A person has a name and a room.")
        if not name.strip(JOINERS):
            raise CallError("invalid_name", "Please choose a name.")
        others = [entry.meta for who, entry in topic.present().items() if who != conn.user]
        check_room(room, {other["room"] for other in others})
        return {"name": free_name(name, [other["name"] for other in others if other["room"] == room]), "room": room}

    def on_publish(self, conn: Connection, topic: Topic, message: Any) -> dict[str, Any]:
        spend(conn)
        person = self.people.present().get(conn.user)
        if person is None or topic.name != topic_of(person.meta["room"]):
            raise CallError("not_in_room", "Please join the room first.")
        text = message.strip() if isinstance(message, str) else ""
        if not 0 < len(text) <= MAX_TEXT:
            raise CallError("invalid_text", f"A message has 1 to {MAX_TEXT} characters.")
        return {"name": person.meta["name"], "text": text, "time": time.time()}


def spend(conn: Connection) -> None:
    """Count one request against the connection's allowance, which grows with time (a token bucket).

    Raises:
        CallError: the allowance is used up.
    """
    state, now = conn.state, time.monotonic()
    state.allowance = min(BURST, state.allowance + (now - state.asked_at) * PER_SECOND)
    state.asked_at = now
    if state.allowance < 1:
        raise CallError("too_many", "Too many messages at once. Please wait a few seconds.")
    state.allowance -= 1


def check_room(name: str, rooms: set[str]) -> None:
    """Check that a room of this name can be entered.

    Raises:
        CallError: the name is not valid, or there are too many rooms.
    """
    if not 0 < len(name) <= MAX_ROOM or not all(char in " -_" or category(char)[0] in "LMN" for char in name):
        raise CallError("invalid_room", f"A room's name has 1 to {MAX_ROOM} letters, digits, spaces, - and _.")
    if name not in rooms and len(rooms) >= MAX_ROOMS:
        raise CallError("too_many_rooms", "There are too many rooms; please join one of them.")


def topic_of(room: str) -> str:
    return "room:" + room.replace(" ", "/")


def tidy(text: str) -> str:
    """Return the text as one line, without invisible characters that could reorder the text around it."""
    visible = "".join(char for char in text[:200] if char.isprintable() or char.isspace() or char in JOINERS)
    return " ".join(normalize("NFC", visible).split())


def free_name(wanted: str, others: list[str]) -> str:
    """Return the name, followed by a number if it is taken."""
    taken = {name.casefold() for name in others}
    names = (f"{wanted[: MAX_NAME - 1 - len(str(number))]} {number}" for number in count(2))
    return wanted if wanted.casefold() not in taken else next(name for name in names if name.casefold() not in taken)


def make_app(
    port: int = 8080,
    address: str = "127.0.0.1",
    http_host: str = "localhost",
    options: Options | None = None,
    broker: str | Broker | None = None,
) -> App:
    """Return the App of the demo, with the page on `/` and the chat on `/chat`."""
    options = options or Options(max_message_size=32 * 1024)
    app = App(http_host, port, address, options=options, broker=broker, authorize=RULES)
    here = Path(__file__).parent
    page = (here / "chat.html").read_text("utf-8")
    app.http("/", lambda request: Response.html(page, headers=HEADERS))
    app.static("/files", here / "files")
    with suppress(ConfigurationError):  # not every broker keeps a history; new people then see new messages only
        app.history(ROOMS, size=HISTORY, seconds=KEEP_SECONDS)
    app.presence(PEOPLE)
    app.route("/chat", Chat(app))
    app.route_client("/pywsapp.js")
    app.health("/health")
    return app
