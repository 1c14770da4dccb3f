"""When the supervisor replaces a worker that has not crashed: the limits of `App.run`."""

from __future__ import annotations

import os
import random
import sys
from dataclasses import dataclass, replace

from pywsapp.exceptions import ConfigurationError

try:
    import resource
except ImportError:  # Windows has no such module, and no workers
    resource = None  # type: ignore[assignment]

#: Each worker has limits of its own, from this share of the limits up to all of them. So not all of the workers are
#: replaced at the same time.
_LEAST_SHARE = 0.8
_MIB = 1024 * 1024


@dataclass(frozen=True)
class WorkerLimits:
    """The limits of one worker; None is no limit.

    Args:
        timeout: seconds in which it must listen after its start, and in which its event loop must run each time.
        max_age: seconds since its start.
        max_connections: connections that it has accepted since its start.
        max_memory: bytes of memory that it uses.

    Raises:
        ConfigurationError: a value is not a number greater than 0.
    """

    timeout: float = 30.0
    max_age: float | None = None
    max_connections: float | None = None
    max_memory: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            optional = name != "timeout" and value is None
            if not optional and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
                raise ConfigurationError(f"worker_{name} must be a number greater than 0, not {value!r}")

    @property
    def recycles(self) -> bool:
        """Whether a worker that works is replaced at all."""
        return (self.max_age, self.max_connections, self.max_memory) != (None, None, None)

    def drawn(self) -> WorkerLimits:
        """Return the limits of one worker: all but the timeout are lower by a random share."""

        def draw(limit: float | None) -> float | None:
            return None if limit is None else limit * random.uniform(_LEAST_SHARE, 1)

        return replace(
            self,
            max_age=draw(self.max_age),
            max_connections=draw(self.max_connections),
            max_memory=draw(self.max_memory),
        )

    def exceeded(self, age: float, connections: int, memory: int) -> str | None:
        """Return which limit a worker has reached, as a statement for the log; None if it has reached none."""
        if self.max_age is not None and age >= self.max_age:
            return f"it has run for {age:.0f} s"
        if self.max_connections is not None and connections >= self.max_connections:
            return f"it has accepted {connections} connections"
        if self.max_memory is not None and memory >= self.max_memory:
            return f"it uses {memory / _MIB:.0f} MiB of memory"
        return None


def memory_used() -> int:
    """Return the bytes of memory that this process uses; elsewhere than on Linux, the most that it has used."""
    if sys.platform == "linux":
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
