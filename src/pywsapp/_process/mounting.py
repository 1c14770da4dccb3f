"""Whether an App is mounted on another one, whose part it is then."""

from __future__ import annotations

from collections.abc import Sequence

from pywsapp.exceptions import ConfigurationError


class Mounting:
    """Whether one App is mounted; the App creates it.

    Attributes:
        is_mounted: whether it is.
    """

    def __init__(self) -> None:
        self.is_mounted = False

    def check_not_mounted(self) -> None:
        """Check that the App can be run and configured itself.

        Raises:
            ConfigurationError: it is part of another App.
        """
        if self.is_mounted:
            raise ConfigurationError("this App is mounted on another App: run and configure that one")

    def check_can_be_mounted(self, settings: Sequence[str], *, on_itself: bool) -> None:
        """Check that the App can become part of another one.

        Args:
            settings: the names of its settings that only an App that runs can have.
            on_itself: whether the other App is the same one, or a part of it.

        Raises:
            ConfigurationError: it cannot.
        """
        if on_itself:
            raise ConfigurationError("an App cannot be mounted on itself")
        if self.is_mounted:
            raise ConfigurationError("this App is mounted on another App already")
        if settings:
            raise ConfigurationError(
                f"an App that is mounted on another App cannot have its own {', '.join(settings)}: "
                "move this to the App that runs, or the options to app.route(..., options=...)"
            )
