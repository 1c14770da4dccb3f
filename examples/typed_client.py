"""A client of typed_chat.py: it sends objects, receives objects, and calls a procedure.

    pip install 'pywsapp[msgspec]'
    python typed_chat.py
    python typed_client.py ws://localhost:8080/chat Ana hello

It says who is in the room, sends the words, and prints what is said, until you end it with Ctrl-C. If the server goes
away, it connects again.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import anyio
import msgspec

from pywsapp import InvalidMessage, LoopConnection, reconnecting

ROOM = "tea"


class Join(msgspec.Struct, tag="join"):
    """A client enters a room."""

    room: str
    name: str


class Say(msgspec.Struct, tag="say"):
    """A client says something in its room."""

    text: str


class Said(msgspec.Struct, tag="said"):
    """Someone has said something."""

    name: str
    text: str


async def main(url: str, name: str, text: str) -> None:
    async for conn in reconnecting(url, message_type=Said):
        async with conn:
            await conn.send(Join(ROOM, name))
            names = await conn.call("names_in", {"room": ROOM}, result_type=list[str])
            print("here:", ", ".join(names), flush=True)
            await conn.send(Say(text))
            await show(conn)


async def show(conn: LoopConnection[Said]) -> None:
    while conn.is_open:
        try:
            async for message in conn:
                print(f"{message.name}: {message.text}", flush=True)
        except InvalidMessage as exc:  # an error of the server, for instance
            print("?", exc.raw, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: typed_client.py URL NAME TEXT")
    with suppress(KeyboardInterrupt):
        anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
