"""A chat with names and rooms: the page and the WebSocket behind it, on one port.

Every message is a JSON object, `{"type": ...}`. The page sends

    join     name, room, key?    enters a room, and leaves the one before
    say      text                says something in the room

and the server answers with

    welcome  room, name, people, rooms, history    you are in, under this name
    message  id, name, text, time                  somebody, perhaps you, said something
    joined   name                                  somebody else came
    left     name                                  somebody left
    rooms    rooms                                 [[room, number of people], ...]; at most once a second
    error    text, about                           why that `about` (join, say or null) was not done

`time` is in seconds since 1970. `id` never repeats, not even after a restart: a page that reconnects knows by it what
it has. `key` is a secret that a page makes up: if its connection broke unnoticed, its next one takes over the name.
"""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from collections import deque
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from unicodedata import category, normalize

from pywsapp import App, Connection, MessageComponent, Options, Request, Response, broadcast

MAX_NAME, MAX_ROOM, MAX_TEXT = 32, 32, 2000  # characters
MAX_ROOMS, HISTORY = 100, 50  # rooms, and messages of a room that a newcomer sees
BURST, PER_SECOND = 10, 2  # events that a connection may send at once, and on average
START_ROOMS = ("lobby", "ideas", "music")
JOINERS = "\u200c\u200d"  # unprintable, and yet parts of Persian words and of emoji


class Complaint(Exception):
    """Something to tell a person, in words for that person."""


class Room:
    """The people in a room, and what was said last."""

    def __init__(self) -> None:
        self.people: set[Connection] = set()
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY)


class Chat(MessageComponent):
    """The chat: one object for all connections."""

    def __init__(self) -> None:
        self.rooms = {name: Room() for name in START_ROOMS}
        self.rooms_changed = False
        self.ids = count(time.time_ns() // 1000)

    def on_open(self, conn: Connection) -> None:
        conn.state.room = conn.state.name = conn.state.key = None
        conn.state.allowance, conn.state.asked_at = BURST, time.monotonic()

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        event = parse(message)
        try:
            self.spend(conn)
            match event:
                case {"type": "join", "name": str(name), "room": str(room)}:
                    self.join(conn, name, room, event.get("key"))
                case {"type": "say", "text": str(text)}:
                    self.say(conn, text)
                case _:
                    raise Complaint("I did not understand that.")
        except Complaint as complaint:
            about = event.get("type") if event.get("type") in ("join", "say") else None
            conn.send(encode("error", text=str(complaint), about=about))

    def on_close(self, conn: Connection) -> None:
        self.leave(conn)

    def spend(self, conn: Connection) -> None:
        """Take one event from the connection's allowance, which grows with time (a token bucket)."""
        state, now = conn.state, time.monotonic()
        state.allowance = min(BURST, state.allowance + (now - state.asked_at) * PER_SECOND)
        state.asked_at = now
        if state.allowance < 1:
            raise Complaint("That was a lot at once; please wait a second or two.")
        state.allowance -= 1

    def join(self, conn: Connection, name: str, room_name: str, key: object) -> None:
        name, room_name = tidy(name)[:MAX_NAME].strip(), tidy(room_name).lower()
        if not name.strip(JOINERS):
            raise Complaint("Please choose a name.")
        room = self.open_room(room_name)
        self.leave(conn)
        if isinstance(key, str) and 16 <= len(key) <= 64:
            conn.state.key = key
            for ghost in [person for person in room.people if person.state.key == key]:
                self.leave(ghost)
                ghost.close(4000, "another connection took its place")
        conn.state.name, conn.state.room = free_name(name, room), room
        broadcast(room.people, encode("joined", name=conn.state.name))
        room.people.add(conn)
        self.rooms_changed = True
        here = {"people": [person.state.name for person in room.people], "history": list(room.history)}
        conn.send(encode("welcome", room=room_name, name=conn.state.name, rooms=self.room_sizes(), **here))

    def say(self, conn: Connection, text: str) -> None:
        text, room = text.strip(), conn.state.room
        if room is None:
            raise Complaint("Please join a room first.")
        if not 0 < len(text) <= MAX_TEXT:
            raise Complaint(f"A message has 1 to {MAX_TEXT} characters.")
        message = {"id": next(self.ids), "name": conn.state.name, "text": text, "time": time.time()}
        room.history.append(message)
        broadcast(room.people, encode("message", **message))

    def leave(self, conn: Connection) -> None:
        room, conn.state.room = conn.state.room, None
        if room is not None:
            room.people.discard(conn)
            self.rooms_changed = True
            broadcast(room.people, encode("left", name=conn.state.name))

    def open_room(self, name: str) -> Room:
        """Give the room of that name, and make it if need be, perhaps in the place of an empty one."""
        if not 0 < len(name) <= MAX_ROOM or not all(char in " -_" or category(char)[0] in "LMN" for char in name):
            raise Complaint(f"A room's name has 1 to {MAX_ROOM} letters, digits, spaces, - and _.")
        if name not in self.rooms and len(self.rooms) >= MAX_ROOMS:
            empty = [other for other in self.rooms if other not in START_ROOMS and not self.rooms[other].people]
            if not empty:
                raise Complaint("There are too many rooms; please join one of them.")
            del self.rooms[empty[0]]
        return self.rooms.setdefault(name, Room())

    def room_sizes(self) -> list[tuple[str, int]]:
        return [(name, len(room.people)) for name, room in self.rooms.items() if room.people or name in START_ROOMS]

    def announce_rooms(self) -> None:
        """Tell everybody about the rooms if they changed: by a timer, so that a crowd of joins costs one message."""
        if self.rooms_changed:
            self.rooms_changed = False
            everybody = [person for room in self.rooms.values() for person in room.people]
            broadcast(everybody, encode("rooms", rooms=self.room_sizes()))


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


def free_name(wanted: str, room: Room) -> str:
    """Give the name, with a number behind it if somebody in the room has it already."""
    taken = {person.state.name.casefold() for person in room.people}
    names = (f"{wanted[: MAX_NAME - 1 - len(str(number))]} {number}" for number in count(2))
    return wanted if wanted.casefold() not in taken else next(name for name in names if name.casefold() not in taken)


def page_headers(page: str) -> dict[str, str]:
    """Allow a page its own inline style and script, a connection to where it came from, and nothing else."""
    inline = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page, re.DOTALL)
    hashes = " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in inline)
    policy = f"default-src {hashes}; connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


def make_app(
    port: int = 8080, address: str = "127.0.0.1", http_host: str = "localhost", options: Options | None = None
) -> App:
    """Make the demo, with the page on `/` and the chat on `/chat`; `run` it, or `serve` it in a test."""
    app, chat = App(http_host, port, address, options=options or Options(max_message_size=32 * 1024)), Chat()
    page = Path(__file__).with_name("chat.html").read_text("utf-8")
    headers = page_headers(page)

    @app.http("/")
    def index(request: Request) -> Response:
        return Response.html(page, headers=headers)

    app.route("/chat", chat)
    app.every(1)(chat.announce_rooms)
    return app
