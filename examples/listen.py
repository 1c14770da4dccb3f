"""A client that prints what a server sends, and connects again whenever the connection is lost.

Run:  python listen.py ws://localhost:8080/chat [MESSAGE ...]
See:  it sends the messages after each connect, and prints all messages of the server. Stop the server and start it
      again: the log says that the connection was lost, and when it is back. End it with Ctrl-C.
"""

import logging
import sys
from contextlib import suppress

import anyio

from pywsapp import ConnectionClosed, HandshakeError, reconnecting


async def main(url: str, messages: list[str]) -> None:
    try:
        async for conn in reconnecting(url):
            print("connected", file=sys.stderr, flush=True)
            for message in messages:
                await conn.send(message)
            async for received in conn:
                print(received, flush=True)
        print("the server is done", file=sys.stderr)
    except (HandshakeError, ConnectionClosed) as exc:
        sys.exit(f"the server does not want this client: {exc}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: listen.py URL [MESSAGE ...]")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with suppress(KeyboardInterrupt):
        anyio.run(main, sys.argv[1], sys.argv[2:])
