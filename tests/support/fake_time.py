"""A clock on which the pauses of a client that connects again pass at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio.lowlevel

from pywsapp import Reconnecting, TopicsClient
from pywsapp._connecting.reconnecting import Clock
from pywsapp._connecting.topics.driver import TopicsDriver


class FakeTime:
    """A clock on which each pause passes at once. Pauses are as long as they can be.

    Attributes:
        pauses: the seconds of the pauses.
        during: called in each pause.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.during: Callable[[], Awaitable[None]] | None = None

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        if self.during is not None:
            await self.during()
        await anyio.lowlevel.checkpoint()

    def use(self, loop: Reconnecting) -> Reconnecting:
        loop._clock = Clock(lambda: self.now, lambda: 0.0, self.sleep, lambda low, high: high)
        loop._rules._uniform = loop._clock.uniform
        return loop

    def use_for_topics(self, topics: TopicsClient) -> TopicsClient:
        """Make a client of topics, which is not started yet, use this clock."""
        make = topics._make_driver

        def make_with_clock() -> TopicsDriver:
            driver = make()
            driver._client.clock = self.use(driver._loop)._clock
            driver._loop._clock = driver._client.clock._replace(sleep=driver._wait_for_attempt)
            return driver

        topics._make_driver = make_with_clock
        return topics
