"""The log records of client libraries."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pywsapp._clients.log_filter import filter_logs, logs_filtered

filter_logs("a_client_library", allowed_text="blocked")


def test_only_records_of_our_connections_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("a_client_library")

    async def connect() -> asyncio.Task[None]:
        async def read() -> None:
            logger.error("a task of the connection has failed")
            logger.warning("the connection was %s", "blocked")
            logger.warning("the connection is blocked by %s", "the server")

        with logs_filtered():
            logger.error("connecting has failed")
            return asyncio.create_task(read())

    async def main() -> None:
        await (await connect())
        logger.error("a connection of the program has failed")

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "the connection is blocked by the server",
        "a connection of the program has failed",
    ]
