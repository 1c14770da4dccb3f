"""Wait until the other tasks of a test have done what they can do."""

from __future__ import annotations

import anyio

from pywsapp.testing.idle import until_tasks_wait

#: Seconds after which a task that never waits fails the test.
GUARD = 20


async def until_blocked() -> None:
    """Wait until every other task waits for a time, for bytes or for another task."""
    with anyio.fail_after(GUARD):
        await until_tasks_wait()
