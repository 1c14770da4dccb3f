"""What an App calls when it starts and ends, and its timers and background tasks."""

from __future__ import annotations

from pywsapp._process.background import Background, Hook, HookT
from pywsapp._signatures import check_takes, name_of


class AppHooks:
    """The hooks, timers and background tasks of one App.

    Attributes:
        startup: the startup hooks.
        shutdown: the shutdown hooks.
        background: the timers and background tasks.
    """

    def __init__(self) -> None:
        self.startup: list[Hook] = []
        self.shutdown: list[Hook] = []
        self.background = Background()

    def on_startup(self, hook: HookT) -> HookT:
        """Add a startup hook, and return it.

        Raises:
            ConfigurationError: it is no function without arguments.
        """
        return _add(hook, self.startup)

    def on_shutdown(self, hook: HookT) -> HookT:
        """Add a shutdown hook, and return it; see `on_startup`."""
        return _add(hook, self.shutdown)

    def include(self, other: AppHooks) -> None:
        """Add the hooks, timers and background tasks of another App; neither of the two runs."""
        self.startup += other.startup
        self.shutdown += other.shutdown
        self.background.include(other.background)


def _add(hook: HookT, hooks: list[Hook]) -> HookT:
    check_takes(hook, (), name_of(hook))
    hooks.append(hook)
    return hook
