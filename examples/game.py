"""A game for several players: the server moves them 30 times a second, and pages draw them smoothly in between.

Run:   python game.py [PORT]
Try:   open http://localhost:8080 in two windows, or on a phone. Steer with the arrow keys, or press where to go.
       Close a window: the player is gone. Stop the server and start it again: the players are back.

A page sends only the direction of its player, so it cannot cheat: the server moves the players and counts the points.
A snapshot is encoded once for all pages, and has the whole state. So a page that is slow can leave snapshots out
(`newest`), and needs no history. Names and colors change rarely; they are the presence of the players. Run this
program in one process: the arena is in its memory.
"""

import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pywsapp import App, CallError, Connection, Options, RateLimit, Response, Topic, TopicComponent, TopicRules

PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
HERTZ, SIZE, SPEED = 30, 1000, 420  # the arena is a square of SIZE x SIZE; SPEED is for a second
RADIUS, REACH = 26, 36  # of a player; the distance in which a player takes a dot
PLAYERS, COLORS, DOTS = 32, 6, 12
MAX_NAME = 12
SLOW = 1024  # bytes that wait for a page, from which on it gets only the newest snapshot


def random_place() -> list[float]:
    return [random.randint(80, SIZE - 80), random.randint(80, SIZE - 80)]


@dataclass
class Player:
    number: int
    at: list[float] = field(default_factory=random_place)
    direction: tuple[float, float] = (0, 0)
    points: int = 0

    def move(self, seconds: float) -> None:
        for axis in 0, 1:
            moved = self.at[axis] + self.direction[axis] * SPEED * seconds
            self.at[axis] = min(SIZE - RADIUS, max(RADIUS, moved))


def direction_of(params: Any) -> tuple[float, float]:
    """Return the direction that a page has sent, with a length of at most 1."""
    match params:
        case {"x": int() | float() as x, "y": int() | float() as y} if -1 <= x <= 1 and -1 <= y <= 1:
            length = max(1, (x * x + y * y) ** 0.5)
            return x / length, y / length
    raise CallError("invalid", "a direction has an x and a y from -1 to 1")


class Arena(TopicComponent):
    def __init__(self) -> None:
        self.players: dict[Connection, Player] = {}
        self.dots = [random_place() for _ in range(DOTS)]
        self.moved_at = time.monotonic()

    def on_track(self, conn: Connection, topic: Topic, meta: Any) -> Any:
        """Have a connection play; what this returns is the presence of the player."""
        name = meta.strip() if isinstance(meta, str) else ""
        if not 0 < len(name) <= MAX_NAME:
            raise CallError("invalid", f"A name has 1 to {MAX_NAME} characters.")
        if conn not in self.players:
            free = set(range(PLAYERS)) - {player.number for player in self.players.values()}
            if not free:
                raise CallError("full", "The arena is full.")
            self.players[conn] = Player(min(free))
        number = self.players[conn].number
        return {"number": number, "name": name, "color": number % COLORS}

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
        """Remove a player; also called at the end of the connection."""
        self.players.pop(conn, None)

    def on_call(self, conn: Connection, method: str, params: Any) -> Any:
        if method != "steer" or conn not in self.players:
            return super().on_call(conn, method, params)
        self.players[conn].direction = direction_of(params)
        return None

    def step(self) -> None:
        """Move all players, and broadcast a snapshot: players as number, x, y, points, ..., and dots as x, y, ..."""
        now = time.monotonic()
        seconds, self.moved_at = now - self.moved_at, now  # a step that is late is a longer one
        for player in self.players.values():
            player.move(seconds)
            for index, (x, y) in enumerate(self.dots):
                if (player.at[0] - x) ** 2 + (player.at[1] - y) ** 2 < REACH * REACH:
                    player.points += 1
                    self.dots[index] = random_place()
        players: list[int] = []
        for player in self.players.values():
            players += player.number, round(player.at[0]), round(player.at[1]), player.points
        if players:
            dots = [number for dot in self.dots for number in dot]
            app.topic("arena").broadcast({"time": round(now * 1000), "players": players, "dots": dots})


arena = Arena()
app = App(
    "localhost",
    8080,
    authorize=TopicRules(subscribe=["arena"], presence=["arena"]),
)
app.route("/live", RateLimit(arena, messages_per_second=40), options=Options(high_water=SLOW))
app.route_client()
app.presence("arena")
app.every(1 / HERTZ)(arena.step)
app.http("/", lambda request: Response.html(PAGE))


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
