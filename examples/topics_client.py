"""A client of live_rooms.py: it follows a room, shows who is there, and publishes what you write.

    python live_rooms.py
    python topics_client.py ws://localhost:8080/live?name=Ana hello

It publishes the words, and prints what is said and who comes and goes, until you end it with Ctrl-C. If the server goes
away, it connects again, and prints what it has missed.
"""

import sys
from contextlib import suppress

import anyio

from pywsapp import CallError, HandshakeError, MessagesLost, TopicSubscription, connect_topics

ROOM = "room:1"


async def main(url: str, words: list[str]) -> None:
    try:
        async with (
            connect_topics(url) as topics,
            topics.subscribe(ROOM, since=None, presence=True, track={}) as room,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(show_presence, room)
            tasks.start_soon(show_messages, room)
            for word in words:
                try:
                    await topics.publish(ROOM, word)
                except CallError as exc:
                    print("not sent:", exc, flush=True)
    except HandshakeError as exc:
        print(f"the server does not want this client: {exc}", file=sys.stderr)


async def show_messages(room: TopicSubscription) -> None:
    while True:
        try:
            async for message in room:
                print(f"{message.data['from']}: {message.data['text']}", flush=True)
        except MessagesLost:
            print("(messages are missing)", flush=True)
        else:
            return


async def show_presence(room: TopicSubscription) -> None:
    async for _ in room.presence_changes():
        print("here:", ", ".join(sorted(room.present)), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: topics_client.py URL [WORD ...]")
    with suppress(KeyboardInterrupt):
        anyio.run(main, sys.argv[1], sys.argv[2:])
