"""Drawing together: lines, pointers and the number of users, on a page for mouse, pen and finger.

Run:   python drawing.py [PORT]
Try:   open http://localhost:8080 in two windows, and draw in both. Reload one: the drawing is there. Stop the server,
       draw a line, and start it again: the line reaches the other window. Older lines were in the memory of the server.

While a hand draws, its points go out once for each frame of the screen, on a topic without a history. The whole line
follows on a topic with a history when the hand is lifted. So a newcomer gets whole lines, and what is missed of the
points does no harm.
"""

import sys
from pathlib import Path
from typing import Any

from pywsapp import App, CallError, Connection, RateLimit, Response, Topic, TopicComponent, TopicRules

PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
BOARD, LIVE = "board:1", "live:1"  # whole lines, which are kept; points and pointers, which are not
SIZE, COLORS, MAX_POINTS = 1000, 6, 1000  # the board is a square of SIZE x SIZE


def are_points(value: Any, at_most: int) -> bool:
    """Return whether a value is a list of coordinates: x, y, x, y, ..."""
    return (
        isinstance(value, list)
        and 2 <= len(value) <= 2 * at_most
        and len(value) % 2 == 0
        and all(type(number) is int and 0 <= number <= SIZE for number in value)
    )


def is_color(value: Any) -> bool:
    return type(value) is int and 0 <= value < COLORS


class Board(TopicComponent):
    def on_track(self, conn: Connection, topic: Topic, meta: Any) -> Any:
        if not is_color(meta):
            raise CallError("invalid", "a user has a color")
        return meta

    def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
        match message:
            case {"by": str(by), "color": color, "line": str(line), "points": points, **rest}:
                most = MAX_POINTS if topic.name == BOARD else 200
                if len(by) <= 32 and len(line) <= 40 and is_color(color) and are_points(points, most) and not rest:
                    return message
            case {"by": str(by), "color": color, "at": at, **rest} if topic.name == LIVE:
                if len(by) <= 32 and is_color(color) and are_points(at, 1) and not rest:
                    return message
            case {"clear": True, **rest} if topic.name == BOARD and not rest:
                return message
        raise CallError("invalid", "this is no line")


app = App(
    "localhost",
    8080,
    authorize=TopicRules(subscribe=[BOARD, LIVE], publish=[BOARD, LIVE], history=[BOARD], presence=[BOARD]),
)
app.route("/live", RateLimit(Board(), messages_per_second=200))
app.route_client()
app.history(BOARD, size=2000, seconds=24 * 3600, max_bytes=16 * 1024 * 1024)
app.presence(BOARD)
app.http("/", lambda request: Response.html(PAGE))


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
