"""The event loop: which one runs, and which one an application asks for."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import anyio

from pywsapp.exceptions import ConfigurationError


def on_asyncio() -> bool:
    """Tell whether the current task is asyncio's (uvloop's included)."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def check_no_loop() -> None:
    """Check that no event loop runs in this thread.

    Raises:
        ConfigurationError: one does.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        try:
            anyio.get_current_task()
        except RuntimeError:
            return
    raise ConfigurationError("App.run() starts an event loop, but one is running here: use `await app.serve()` instead")


def loop_options(backend: str, uvloop: bool | None) -> dict[str, Any]:
    """Give the options for `anyio.run`.

    Args:
        backend: "asyncio" or "trio".
        uvloop: for asyncio, whether to use uvloop; None if it is installed.

    Raises:
        ConfigurationError: there is no such thing, or it is not installed.
    """
    if backend not in ("asyncio", "trio"):
        hint = "; uvloop is asked for with uvloop=True" if backend == "uvloop" else ""
        raise ConfigurationError(f'backend must be "asyncio" or "trio", not {backend!r}{hint}')
    if backend == "trio":
        if uvloop:
            raise ConfigurationError("uvloop is a loop for asyncio; trio has its own: leave uvloop out")
        if not _installed("trio"):
            raise ConfigurationError("trio is not installed: pip install 'pywsapp[trio]'")
        return {}
    if uvloop and not _installed("uvloop"):
        raise ConfigurationError("uvloop is not installed: pip install 'pywsapp[uvloop]'")
    return {"use_uvloop": _installed("uvloop") if uvloop is None else uvloop}


def loop_name() -> str:
    """Give the name of the running event loop, for people."""
    if not on_asyncio():
        return "trio"
    module = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return "uvloop" if module == "uvloop" else "asyncio"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # somebody has put a stand-in without a spec, or None, into sys.modules
        return False
