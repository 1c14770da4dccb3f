"""A chat with names and rooms: the page and the WebSocket behind it, on one port, in any number of processes.

Every message is a JSON object, `{"type": ...}`. The page sends

    join     name, room, key?, since?    enters a room, and leaves the one before
    say      text                        says something in the room

and the server answers with

    welcome  room, name, people, rooms   you are in, under this name; what was said here follows
    message  id, name, text, time        somebody, perhaps you, said something
    missed                               more was said, but it is not known any more
    ready                                what follows is new
    joined   name                        somebody else came
    left     name                        somebody left
    rooms    rooms                       [[room, number of people], ...]; at most once a second
    error    text, about                 why that `about` (join, say or null) was not done

`time` is in seconds since 1970. `id` is the message's position in the room, which a page that comes back names as
`since`. `key` is a secret that a page makes up: if its connection broke unnoticed, its next one takes over the name.

Each room is a topic, which keeps the last messages. Who is where is the presence of one more topic; all are in that.
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
MAX_ROOMS, HISTORY = 100, 50  # rooms with people, and messages of a room that a newcomer sees
BURST, PER_SECOND = 10, 2  # events that a connection may send at once, and on average
START_ROOMS = ("lobby", "ideas", "music")
JOINERS = "\u200c\u200d"  # unprintable, and yet parts of Persian words and of emoji
EVERYBODY, TAKEN_OVER = "everybody", "taken-over"
KEEP_SECONDS = 24 * 3600


class Complaint(Exception):
    """Something to tell a person, in words for that person."""


class Chat(MessageComponent):
    """The chat: one object for all connections of a process."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.everybody = app.topic(EVERYBODY)
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
                    raise Complaint("I did not understand that.")
        except Complaint as complaint:
            about = event.get("type") if event.get("type") in ("join", "say") else None
            conn.send(encode("error", text=str(complaint), about=about))

    def spend(self, conn: Connection) -> None:
        """Take one event from the connection's allowance, which grows with time (a token bucket)."""
        state, now = conn.state, time.monotonic()
        state.allowance = min(BURST, state.allowance + (now - state.asked_at) * PER_SECOND)
        state.asked_at = now
        if state.allowance < 1:
            raise Complaint("That was a lot at once; please wait a second or two.")
        state.allowance -= 1

    async def join(self, conn: Connection, name: str, room: str, key: object, since: object) -> None:
        name, room, state = tidy(name)[:MAX_NAME].strip(), tidy(room).lower(), conn.state
        if not name.strip(JOINERS):
            raise Complaint("Please choose a name.")
        await self.everybody.add(conn)  # of the first one here, this waits until it is known who is elsewhere
        self.check_room(room)
        if state.room is not None:
            self.app.topic(topic_of(state.room)).remove(conn)
        if isinstance(key, str) and 16 <= len(key) <= 64:
            state.person = sha256(key.encode("utf-8", "replace")).hexdigest()
        people = {who: entry.meta for who, entry in self.everybody.present().items()}
        if state.room is None and state.person in people:
            self.app.topic(TAKEN_OVER).broadcast(f"{state.person} {state.token}")
        others = [meta["name"] for who, meta in people.items() if meta["room"] == room and who != state.person]
        state.name, state.room = free_name(name, others), room
        self.everybody.track(conn, state.person, {"name": state.name, "room": room})
        people_here = [*others, state.name]
        conn.send(encode("welcome", room=room, name=state.name, people=people_here, rooms=self.room_sizes()))
        await self.send_what_was_said(conn, self.app.topic(topic_of(room)), since)
        conn.send(encode("ready"))

    async def send_what_was_said(self, conn: Connection, topic: Topic, since: object) -> None:
        if topic.history is None:
            await topic.add(conn)
            return
        try:
            await topic.recover(conn, since if isinstance(since, str) else None)
        except TopicError:  # that was no position
            await topic.recover(conn, None)

    async def say(self, conn: Connection, text: str) -> None:
        text, room = text.strip(), conn.state.room
        if room is None:
            raise Complaint("Please join a room first.")
        if not 0 < len(text) <= MAX_TEXT:
            raise Complaint(f"A message has 1 to {MAX_TEXT} characters.")
        number = f"{next(self.numbers)}-{self.process}"
        message = encode("message", name=conn.state.name, text=text, time=time.time(), id=number)
        await self.app.topic(topic_of(room)).broadcast(message)

    def check_room(self, name: str) -> None:
        """Complain if nobody can go to the room of that name."""
        if not 0 < len(name) <= MAX_ROOM or not all(char in " -_" or category(char)[0] in "LMN" for char in name):
            raise Complaint(f"A room's name has 1 to {MAX_ROOM} letters, digits, spaces, - and _.")
        rooms = [room for room, _ in self.room_sizes()]
        if name not in rooms and len(rooms) >= MAX_ROOMS:
            raise Complaint("There are too many rooms; please join one of them.")

    def room_sizes(self) -> list[tuple[str, int]]:
        sizes = Counter(dict.fromkeys(START_ROOMS, 0))
        sizes.update(entry.meta["room"] for entry in self.everybody.present().values())
        return list(sizes.items())

    # -- what happens elsewhere --------------------------------------------------------------------------------------

    def people_changed(self, topic: Topic, diff: PresenceDiff) -> None:
        """Tell the people here who came and left; somebody who changes the room, or the name, does both."""
        left = [*diff.left.items(), *((who, before) for who, (before, _) in diff.changed.items())]
        joined = [*diff.joined.items(), *((who, now) for who, (_, now) in diff.changed.items())]
        for kind, people in (("left", left), ("joined", joined)):
            for who, meta in people:
                here = [conn for conn in self.app.topic(topic_of(meta["room"])) if conn.state.person != who]
                broadcast(here, encode(kind, name=meta["name"]))
        self.rooms_changed = True

    def taken_over(self, topic: Topic, message: str) -> None:
        """Close what is left of a person's connections, for there is a new one."""
        person, token = message.split()
        for conn in self.everybody:
            if conn.state.person == person and conn.state.token != token:
                conn.close(4000, "another connection took its place")

    def announce_rooms(self) -> None:
        """Tell everybody about the rooms if they changed: by a timer, so that a crowd of joins costs one message."""
        if self.rooms_changed:
            self.rooms_changed = False
            broadcast(self.everybody, encode("rooms", rooms=self.room_sizes()))


def topic_of(room: str) -> str:
    return "room:" + room.replace(" ", "/")


def with_position(publication: Publication) -> str:
    """Give what clients get of a message: the message, with its position as its id."""
    if not isinstance(publication.message, str):
        return encode("missed")
    return json.dumps(json.loads(publication.message) | {"id": publication.position}, separators=(",", ":"))


def parse(message: str | bytes) -> dict[str, Any]:
    """Give the JSON object in a message, an empty one if there is none."""
    try:
        event = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def encode(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def tidy(text: str) -> str:
    """Make one line of it, with nothing invisible that could reorder what stands around it."""
    visible = "".join(char for char in text[:200] if char.isprintable() or char.isspace() or char in JOINERS)
    return " ".join(normalize("NFC", visible).split())


def free_name(wanted: str, others: list[str]) -> str:
    """Give the name, with a number behind it if one of the others has it already."""
    taken = {name.casefold() for name in others}
    names = (f"{wanted[: MAX_NAME - 1 - len(str(number))]} {number}" for number in count(2))
    return wanted if wanted.casefold() not in taken else next(name for name in names if name.casefold() not in taken)


def page_headers(page: str) -> dict[str, str]:
    """Allow a page its own inline style and script, a connection to where it came from, and nothing else."""
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
    """Make the demo, with the page on `/` and the chat on `/chat`; `run` it, or `serve` it in a test."""
    app = App(http_host, port, address, options=options or Options(max_message_size=32 * 1024), broker=broker)
    page = Path(__file__).with_name("chat.html").read_text("utf-8")
    headers = page_headers(page)

    @app.http("/")
    def index(request: Request) -> Response:
        return Response.html(page, headers=headers)

    with suppress(ConfigurationError):  # not every broker keeps a history; then newcomers see what comes
        app.history("room:*", size=HISTORY, seconds=KEEP_SECONDS, wrap=with_position)
    chat = Chat(app)
    app.route("/chat", chat)
    app.health("/health")
    app.on_presence(EVERYBODY)(chat.people_changed)
    app.on_broadcast(TAKEN_OVER)(chat.taken_over)
    app.every(1)(chat.announce_rooms)
    return app
