"""A chat with names and rooms: the page and the WebSocket behind it, on one port, in any number of processes.

Every message is a JSON object, `{"type": ...}`. The page sends

    join     name, room, key?, since?    enter a room, and leave the current one
    say      text                        send a message to the room

and the server sends

    welcome  room, name, people, rooms   the page has entered under this name; the room's last messages follow
    message  id, name, text, time        a message of the room, perhaps of this page
    missed                               older messages are no longer available
    ready                                the messages from here on are new
    joined   name                        another person has entered the room
    left     name                        another person has left the room
    rooms    rooms                       [[room, number of people], ...]; at most once a second
    error    text, about                 why the server refused `about` (join, say or null)

`time` is in seconds since 1970. `id` is the position of the message in the room's history; a page that reconnects sends
it as `since`. `key` is a secret of the page: if its connection broke, its next connection takes over the name.

Each room is a topic, whose last messages are kept. One more topic contains all connections, and its presence has the
name and the room of each person.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from base64 import b64encode
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from unicodedata import category, normalize

from pywsapp import (
    App,
    Broker,
    ConfigurationError,
    Connection,
    MessageComponent,
    Options,
    PresenceDiff,
    Publication,
    Request,
    Response,
    Topic,
    TopicError,
    broadcast,
)

MAX_NAME, MAX_ROOM, MAX_TEXT = 32, 32, 2000  # characters
MAX_ROOMS, HISTORY = 100, 50  # rooms with people in them, and messages of a room that are kept
BURST, PER_SECOND = 10, 2  # events that a connection may send at once, and on average per second
START_ROOMS = ("lobby", "ideas", "music")
JOINERS = "\u200c\u200d"  # not printable, but needed in Persian words and in emoji
CONNECTED, TAKEN_OVER = "connected", "taken-over"
KEEP_SECONDS = 24 * 3600


class UserError(Exception):
    """A request of a user that is refused, with a text for the user."""


class Chat(MessageComponent):
    """The chat: one instance for all connections of a process."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.connected = app.topic(CONNECTED)
        self.rooms_changed = False
        self.process, self.numbers = secrets.token_hex(4), count()

    def on_open(self, conn: Connection) -> None:
        conn.state.room = conn.state.name = None
        conn.state.person = conn.state.token = secrets.token_hex(16)
        conn.state.allowance, conn.state.asked_at = BURST, time.monotonic()

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        event = parse(message)
        try:
            self.spend(conn)
            match event:
                case {"type": "join", "name": str(name), "room": str(room)}:
                    await self.join(conn, name, room, event.get("key"), event.get("since"))
                case {"type": "say", "text": str(text)}:
                    await self.say(conn, text)
                case _:
                    raise UserError("I did not understand that.")
        except UserError as exc:
            about = event.get("type") if event.get("type") in ("join", "say") else None
            conn.send(encode("error", text=str(exc), about=about))

    def spend(self, conn: Connection) -> None:
        """Count one event against the connection's allowance, which grows with time (a token bucket).

        Raises:
            UserError: the allowance is used up.
        """
        state, now = conn.state, time.monotonic()
        state.allowance = min(BURST, state.allowance + (now - state.asked_at) * PER_SECOND)
        state.asked_at = now
        if state.allowance < 1:
            raise UserError("Too many messages at once. Please wait a few seconds.")
        state.allowance -= 1

    async def join(self, conn: Connection, name: str, room: str, key: object, since: object) -> None:
        name, room, state = tidy(name)[:MAX_NAME].strip(), tidy(room).lower(), conn.state
        if not name.strip(JOINERS):
            raise UserError("Please choose a name.")
        await self.connected.add(conn)  # the first connection waits here until the presence in other processes is known
        self.check_room(room)
        if state.room is not None:
            self.app.topic(topic_of(state.room)).remove(conn)
        if isinstance(key, str) and 16 <= len(key) <= 64:
            state.person = sha256(key.encode("utf-8", "replace")).hexdigest()
        people = {who: entry.meta for who, entry in self.connected.present().items()}
        if state.room is None and state.person in people:
            self.app.topic(TAKEN_OVER).broadcast(f"{state.person} {state.token}")
        others = [meta["name"] for who, meta in people.items() if meta["room"] == room and who != state.person]
        state.name, state.room = free_name(name, others), room
        self.connected.track(conn, state.person, {"name": state.name, "room": room})
        people_here = [*others, state.name]
        conn.send(encode("welcome", room=room, name=state.name, people=people_here, rooms=self.room_sizes()))
        await self.send_history(conn, self.app.topic(topic_of(room)), since)
        conn.send(encode("ready"))

    async def send_history(self, conn: Connection, topic: Topic, since: object) -> None:
        if topic.history is None:
            await topic.add(conn)
            return
        try:
            await topic.recover(conn, since if isinstance(since, str) else None)
        except TopicError:  # `since` is no position
            await topic.recover(conn, None)

    async def say(self, conn: Connection, text: str) -> None:
        text, room = text.strip(), conn.state.room
        if room is None:
            raise UserError("Please join a room first.")
        if not 0 < len(text) <= MAX_TEXT:
            raise UserError(f"A message has 1 to {MAX_TEXT} characters.")
        number = f"{next(self.numbers)}-{self.process}"
        message = encode("message", name=conn.state.name, text=text, time=time.time(), id=number)
        await self.app.topic(topic_of(room)).broadcast(message)

    def check_room(self, name: str) -> None:
        """Check that a room of this name can be joined.

        Raises:
            UserError: the name is not valid, or there are too many rooms.
        """
        if not 0 < len(name) <= MAX_ROOM or not all(char in " -_" or category(char)[0] in "LMN" for char in name):
            raise UserError(f"A room's name has 1 to {MAX_ROOM} letters, digits, spaces, - and _.")
        rooms = [room for room, _ in self.room_sizes()]
        if name not in rooms and len(rooms) >= MAX_ROOMS:
            raise UserError("There are too many rooms; please join one of them.")

    def room_sizes(self) -> list[tuple[str, int]]:
        sizes = Counter(dict.fromkeys(START_ROOMS, 0))
        sizes.update(entry.meta["room"] for entry in self.connected.present().values())
        return list(sizes.items())

    # -- events of other connections and processes ------------------------------------------------------------------

    def people_changed(self, topic: Topic, diff: PresenceDiff) -> None:
        """Send who joined and left to the rooms; a person who changes the room or the name does both."""
        left = [*diff.left.items(), *((who, before) for who, (before, _) in diff.changed.items())]
        joined = [*diff.joined.items(), *((who, now) for who, (_, now) in diff.changed.items())]
        for kind, people in (("left", left), ("joined", joined)):
            for who, meta in people:
                here = [conn for conn in self.app.topic(topic_of(meta["room"])) if conn.state.person != who]
                broadcast(here, encode(kind, name=meta["name"]))
        self.rooms_changed = True

    def taken_over(self, topic: Topic, message: str) -> None:
        """Close the old connections of a person who has a new one."""
        person, token = message.split()
        for conn in self.connected:
            if conn.state.person == person and conn.state.token != token:
                conn.close(4000, "another connection took its place")

    def announce_rooms(self) -> None:
        """Send the list of rooms if it changed; called by a timer, so that many joins cost one message."""
        if self.rooms_changed:
            self.rooms_changed = False
            broadcast(self.connected, encode("rooms", rooms=self.room_sizes()))


def topic_of(room: str) -> str:
    return "room:" + room.replace(" ", "/")


def with_position(publication: Publication) -> str:
    """Return the message for clients: the published message, with its position as its id."""
    if not isinstance(publication.message, str):
        return encode("missed")
    return json.dumps(json.loads(publication.message) | {"id": publication.position}, separators=(",", ":"))


def parse(message: str | bytes) -> dict[str, Any]:
    """Return the JSON object in a message, or an empty dict if there is none."""
    try:
        event = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def encode(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def tidy(text: str) -> str:
    """Return the text as one line, without invisible characters that could reorder the text around it."""
    visible = "".join(char for char in text[:200] if char.isprintable() or char.isspace() or char in JOINERS)
    return " ".join(normalize("NFC", visible).split())


def free_name(wanted: str, others: list[str]) -> str:
    """Return the name, followed by a number if it is taken."""
    taken = {name.casefold() for name in others}
    names = (f"{wanted[: MAX_NAME - 1 - len(str(number))]} {number}" for number in count(2))
    return wanted if wanted.casefold() not in taken else next(name for name in names if name.casefold() not in taken)


def page_headers(page: str) -> dict[str, str]:
    """Return headers that allow only the page's own inline style and script, and connections to its own server."""
    inline = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page, re.DOTALL)
    hashes = " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in inline)
    policy = f"default-src {hashes}; connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


def make_app(
    port: int = 8080,
    address: str = "127.0.0.1",
    http_host: str = "localhost",
    options: Options | None = None,
    broker: str | Broker | None = None,
) -> App:
    """Return the App of the demo, with the page on `/` and the chat on `/chat`."""
    app = App(http_host, port, address, options=options or Options(max_message_size=32 * 1024), broker=broker)
    page = Path(__file__).with_name("chat.html").read_text("utf-8")
    headers = page_headers(page)

    @app.http("/")
    def index(request: Request) -> Response:
        return Response.html(page, headers=headers)

    with suppress(ConfigurationError):  # not every broker keeps a history; new people then see new messages only
        app.history("room:*", size=HISTORY, seconds=KEEP_SECONDS, wrap=with_position)
    chat = Chat(app)
    app.route("/chat", chat)
    app.health("/health")
    app.on_presence(CONNECTED)(chat.people_changed)
    app.on_broadcast(TAKEN_OVER)(chat.taken_over)
    app.every(1)(chat.announce_rooms)
    return app
