"""The hooks that an App calls when it starts and ends, and its timers and background tasks."""

from __future__ import annotations

from typing import Any

from pywsapp._process.background import Background, Hook, HookT
from pywsapp._signatures import check_takes, name_of
from pywsapp.exceptions import ConfigurationError


class AppHooks:
    """The hooks, timers and background tasks of one App.

    Attributes:
        startup: the startup hooks.
        shutdown: the shutdown hooks.
        has_started: whether the App runs and has called its startup hooks.
        background: the timers and background tasks.
        status: the service of the status pages, which is one for all mounted Apps; `App.status` sets it.
    """

    def __init__(self) -> None:
        self.startup: list[Hook] = []
        self.shutdown: list[Hook] = []
        self.has_started = False
        self.background = Background()
        self.status: Any = None

    def check_not_started(self, method: str) -> None:
        """Check that a startup hook would still be called.

        Args:
            method: the method of App that was called.

        Raises:
            ConfigurationError: the App has called its startup hooks already.
        """
        if self.has_started:
            raise ConfigurationError(f"App.{method} must be called before the app runs")

    def on_startup(self, hook: HookT) -> HookT:
        """Add a startup hook, and return it.

        Raises:
            ConfigurationError: it is no function without arguments, or the App has called its startup hooks already.
        """
        self.check_not_started("on_startup")
        return _add(hook, self.startup)

    def on_shutdown(self, hook: HookT) -> HookT:
        """Add a shutdown hook, and return it; see `on_startup`."""
        return _add(hook, self.shutdown)

    def include(self, other: AppHooks) -> None:
        """Add the hooks, timers and background tasks of another App; neither of the two runs."""
        self.startup += other.startup
        self.shutdown += other.shutdown
        self.background.include(other.background)
        if self.status is None:
            self.status = other.status
        elif other.status is not None:
            self.status.include(other.status)


def _add(hook: HookT, hooks: list[Hook]) -> HookT:
    check_takes(hook, (), name_of(hook))
    hooks.append(hook)
    return hook
