#!/usr/bin/env python3
"""The echo client under test: python conformance/client.py ws://127.0.0.1:9001 AGENT --backend trio."""

from __future__ import annotations

import argparse
import logging

import anyio

from limits import BACKENDS, OPTIONS
from pywsapp import Connection, EchoServer, MessageComponent, run_client

logger = logging.getLogger("conformance.client")


class CaseCount(MessageComponent):
    """Stores the number of cases, which comes in one message."""

    def __init__(self) -> None:
        self.cases = 0

    def on_message(self, conn: Connection, message: str) -> None:
        self.cases = int(message)


async def run(url: str, agent: str) -> None:
    count = CaseCount()
    await run_client(count, f"{url}/getCaseCount", options=OPTIONS)
    echo = EchoServer()
    for case in range(1, count.cases + 1):
        try:
            await run_client(echo, f"{url}/runCase?case={case}&agent={agent}", options=OPTIONS)
        except Exception:
            # This case fails in the report; the other cases must still run.
            logger.exception("case %d of the list", case)
    await run_client(MessageComponent(), f"{url}/updateReports?agent={agent}", options=OPTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("agent")
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    args = parser.parse_args()
    if args.backend == "trio":
        anyio.run(run, args.url, args.agent, backend="trio")
    else:
        use_uvloop = args.backend == "uvloop"
        anyio.run(run, args.url, args.agent, backend="asyncio", backend_options={"use_uvloop": use_uvloop})


if __name__ == "__main__":
    main()
