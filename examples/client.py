"""A component in the client role: it sends what you type, and prints what comes.

Run:  python client.py ws://localhost:8080/echo [MESSAGE ...]
See:  with messages, it sends them and leaves after as many answers. Without, it sends each line you type, until you
      end the input with Ctrl-D.
"""

import os
import sys
from contextlib import suppress

import anyio
from anyio.abc import TaskGroup

from pywsapp import Connection, HandshakeError, MessageComponent, run_client


class Terminal(MessageComponent):
    def __init__(self, messages: list[str], tasks: TaskGroup) -> None:
        self.messages = messages
        self.tasks = tasks
        self.answers = 0

    def on_open(self, conn: Connection) -> None:
        for message in self.messages:
            conn.send(message)
        if not self.messages:
            self.tasks.start_soon(send_lines, conn)

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        print(message, flush=True)
        self.answers += 1
        if self.answers == len(self.messages):
            conn.close()


async def send_lines(conn: Connection) -> None:
    while True:
        await anyio.wait_readable(sys.stdin)
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            conn.close()
            return
        for line in data.decode().splitlines():
            conn.send(line)


async def main(url: str, messages: list[str]) -> None:
    async with anyio.create_task_group() as tasks:
        try:
            conn = await run_client(Terminal(messages, tasks), url)
        except (HandshakeError, OSError) as exc:
            print(f"no connection: {exc}", file=sys.stderr)
        else:
            print(f"closed: {conn.close_code} {conn.close_reason}", file=sys.stderr)
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: client.py URL [MESSAGE ...]")
    with suppress(KeyboardInterrupt):
        anyio.run(main, sys.argv[1], sys.argv[2:])
