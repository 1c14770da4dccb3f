"""Checks of the functions that a program passes to the library, when they are passed and not when they are called."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from pywsapp.exceptions import ConfigurationError


def check_takes(function: object, arguments: Sequence[str], label: str, shown: Sequence[str] | None = None) -> None:
    """Check that a function can be called with positional arguments.

    Args:
        function: the function, or any other callable.
        arguments: the names of the arguments that the library passes.
        label: the function's name for the message.
        shown: the arguments that the message shows, if they are not those that are passed: also the `self` of a method.

    Raises:
        ConfigurationError: it takes other arguments, or it is no function.
    """
    if inspect.iscoroutine(function):
        function.close()
        raise ConfigurationError(
            f"{label} must be a function, not a coroutine: leave out the parentheses behind its name"
        )
    if not callable(function):
        raise ConfigurationError(f"{label} must be a function, not {function!r}")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as exc:
        wanted = ", ".join(arguments if shown is None else shown)
        raise ConfigurationError(f"{label} must take ({wanted}): {exc}") from None
    except ValueError:
        return  # a builtin without a signature


def name_of(function: object) -> str:
    """Return the name of a function for messages."""
    return str(getattr(function, "__qualname__", function))


def check_no_function(value: object, example: str) -> None:
    """Check that a decorator with an argument is not written without it, directly above a function or class.

    Args:
        value: what was passed as the argument.
        example: how to write it: '@app.every(5)'.

    Raises:
        ConfigurationError: the argument is a function or class.
    """
    if callable(value):
        raise ConfigurationError(f"write {example} above {name_of(value)}: the decorator needs an argument")
