"""Running the checks of a port one after another; what went wrong begins with the rule that is broken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import anyio

MakeT = TypeVar("MakeT")
CheckT = TypeVar("CheckT", bound=Callable[..., Awaitable[None]])

#: Seconds that one check may take.
CHECK_SECONDS = 60.0


def recorder(checks: dict[str, CheckT]) -> Callable[[CheckT], CheckT]:
    """Return a decorator that adds a function to some checks, under its name."""

    def record(function: CheckT) -> CheckT:
        checks[getattr(function, "__name__", "")] = function
        return function

    return record


async def run_checks(checks: Mapping[str, Callable[[MakeT], Awaitable[None]]], make: MakeT, what: str) -> None:
    """Run checks in their order, and stop at the first rule that is broken.

    Args:
        checks: the checks by their names, which are the rules.
        make: the argument of each check; it makes what is checked.
        what: names what is checked, for messages.

    Raises:
        AssertionError: a rule is broken, or `make` or what it made raised something else.
    """
    for name, check in checks.items():
        rule = name.replace("_", " ")
        try:
            with anyio.fail_after(CHECK_SECONDS):
                await check(make)
        except TimeoutError as exc:
            raise AssertionError(f"{rule}: not finished within {CHECK_SECONDS:g} seconds") from exc
        except AssertionError as exc:
            raise AssertionError(f"{rule}: {exc}") from exc
        except Exception as exc:
            raise AssertionError(f"{rule}: {what} raised {exc!r}") from exc
