"""The limits of the connections of an App, as its arguments state them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options, TooMany


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The limits of the connections of an App; see the arguments of `App`. None sets no limit.

    Raises:
        ConfigurationError: a value is not valid.
    """

    max_connections: int | None = None
    max_pending: int | None = None
    max_handshakes_per_second: float | None = None
    max_connections_per_address: int | None = None
    max_connections_per_user: int | None = None
    on_too_many: TooMany = TooMany.REFUSE

    def __post_init__(self) -> None:
        if self.max_connections is not None and self.max_connections < 1:
            raise ConfigurationError(
                f"max_connections must be 1 or more, not {self.max_connections!r}; leave it out for all"
            )
        for name in ("max_pending", "max_connections_per_address", "max_connections_per_user"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigurationError(f"{name} must be a whole number from 1 on, not {value!r}")
        rate = self.max_handshakes_per_second
        if rate is not None and (type(rate) not in (int, float) or not 0 < rate < float("inf")):
            raise ConfigurationError(f"max_handshakes_per_second must be a number greater than 0, not {rate!r}")
        if not isinstance(self.on_too_many, TooMany):
            raise ConfigurationError(f"on_too_many must be a TooMany, not {self.on_too_many!r}")
        if self.on_too_many is not TooMany.REFUSE and self.max_connections_per_user is None:
            raise ConfigurationError("on_too_many needs max_connections_per_user, the limit that it is for")

    @property
    def limits_handshakes(self) -> bool:
        """Whether there is a limit of handshakes per second, of addresses or of users."""
        return (
            self.max_handshakes_per_second is not None
            or self.max_connections_per_address is not None
            or self.max_connections_per_user is not None
        )

    def changed(self) -> dict[str, Any]:
        """Return the limits that differ from the defaults, by the names of the arguments of `App`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(DEFAULT, name)}


DEFAULT = ConnectionLimits()

_AGES = ("max_connection_age", "idle_timeout")


def with_limits(
    limits: ConnectionLimits, options: Options, changes: Mapping[str, Any]
) -> tuple[ConnectionLimits, Options]:
    """Return limits and options with other values.

    Args:
        limits: the limits.
        options: the options.
        changes: new values by their names: those of `ConnectionLimits`, and the age and idle time of the options; None
            keeps a value.

    Raises:
        ConfigurationError: a value is not valid.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    ages = {name: given.pop(name) for name in _AGES if name in given}
    return replace(limits, **given), replace(options, **ages)
