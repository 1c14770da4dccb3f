"""Wake all tasks that wait for the next change."""

from __future__ import annotations

import anyio


class Bell:
    """Wakes the tasks that wait for a change; a task looks at what has changed, and waits again."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def ring(self) -> None:
        """Wake all tasks that wait."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait until `ring` is called."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
