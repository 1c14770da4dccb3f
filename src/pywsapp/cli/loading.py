"""Find the App that a command names: `chat:app`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from functools import reduce
from typing import Any

from pywsapp._process.importing import importing
from pywsapp.app import App
from pywsapp.cli.failures import ProgramFailed, with_place
from pywsapp.exceptions import ConfigurationError


def find_app(place: str, *, factory: bool = False) -> App:
    """Import an App; the current directory is searched first.

    Args:
        place: "module:attribute", or "module" for its attribute `app`.
        factory: whether the attribute is a function that makes the App.

    Raises:
        ConfigurationError: there is no App at this place, or the module runs it while it is imported.
        ProgramFailed: the module, or the function, has raised another exception.
    """
    name, _, attribute = place.partition(":")
    attribute = attribute or "app"
    directory, file = os.path.split(name)
    if directory:
        module = file.removesuffix(".py")
        raise ConfigurationError(
            f"{name!r} is a file: change to its directory and write its module, {module}:{attribute}"
        )
    if not all(name.split(".")):
        raise ConfigurationError(f"an App is named by its module and its name there, such as chat:app, not {place!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with importing(name):
        found = _attribute(_import(name, attribute), name, attribute)
        if factory:
            if not callable(found):
                raise ConfigurationError(f"{place} is no function that makes an App, but {type(found).__name__}")
            found = _called(found, place)
    if not isinstance(found, App):
        hint = "; if it is a function that makes one, add --factory" if callable(found) and not factory else ""
        raise ConfigurationError(f"{place} is no App, but {type(found).__name__}{hint}")
    return found


def _called(factory: Any, place: str) -> Any:
    if inspect.iscoroutinefunction(factory):
        raise ConfigurationError(f"{place} is an async function; --factory calls a function without await")
    try:
        inspect.signature(factory).bind()
    except TypeError:
        raise ConfigurationError(f"{place} needs arguments; --factory calls it without any") from None
    except ValueError:
        pass  # a function in C without a signature
    try:
        return factory()
    except ConfigurationError as exc:
        raise with_place(exc) from None
    except Exception as exc:
        raise ProgramFailed(exc) from None


def _import(name: str, attribute: str) -> Any:
    try:
        return importlib.import_module(name)
    except ConfigurationError as exc:
        raise with_place(exc) from None
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise ProgramFailed(exc) from None  # the module exists, and a module that it imports does not
        hint = f"; write it as a module, {name[:-3]}:{attribute}" if name.endswith(".py") else ""
        raise ConfigurationError(f"there is no module {exc.name!r} in {os.getcwd()} or on sys.path{hint}") from exc
    except Exception as exc:
        raise ProgramFailed(exc) from None


def _attribute(module: Any, name: str, attribute: str) -> Any:
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError as exc:
        apps = [key for key, value in vars(module).items() if isinstance(value, App)]
        hint = f"; it has {', '.join(f'{name}:{key}' for key in apps)}" if apps else ""
        raise ConfigurationError(f"module {name!r} has no {attribute!r}{hint}") from exc
    except Exception as exc:  # of a property
        raise ProgramFailed(exc) from None
