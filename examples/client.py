"""A client: it sends what you type, and prints what it receives.

Run:  python client.py ws://localhost:8080/echo [MESSAGE ...]
See:  with messages, it sends them and ends after as many answers. Without, it sends each line you type, until you
      end the input with Ctrl-D.
"""

import os
import sys
from contextlib import suppress

import anyio

from pywsapp import ClientConnection, ConnectionClosed, HandshakeError, connect


async def main(url: str, messages: list[str]) -> None:
    try:
        async with connect(url) as conn:
            with suppress(ConnectionClosed):  # the last line says how it ended
                await (exchange(conn, messages) if messages else talk(conn))
    except (HandshakeError, OSError) as exc:
        print(f"no connection: {exc}", file=sys.stderr)
    else:
        print(f"closed: {conn.close_code} {conn.close_reason}", file=sys.stderr)


async def exchange(conn: ClientConnection, messages: list[str]) -> None:
    for message in messages:
        await conn.send(message)
    for _ in messages:
        print(await conn.receive(), flush=True)


async def talk(conn: ClientConnection) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_lines, conn)
        with suppress(ConnectionClosed):  # inside the task group, which would raise it in an ExceptionGroup
            async for message in conn:
                print(message, flush=True)
        tasks.cancel_scope.cancel()


async def send_lines(conn: ClientConnection) -> None:
    while True:
        await anyio.wait_readable(sys.stdin)
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            await conn.close()
            return
        for line in data.decode().splitlines():
            await conn.send(line)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: client.py URL [MESSAGE ...]")
    with suppress(KeyboardInterrupt):
        anyio.run(main, sys.argv[1], sys.argv[2:])
