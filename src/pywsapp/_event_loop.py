"""Event loops: which one runs, and the options of the one that an application selects."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from pywsapp.exceptions import ConfigurationError

#: Calls a function in an event loop, soon.
CallSoon = Callable[[Callable[[], object]], object]


def on_asyncio() -> bool:
    """Return whether the current task is a task of asyncio, uvloop included."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


@contextmanager
def known_to_anyio() -> Iterator[None]:
    """Have anyio recognise asyncio in the callbacks of transports too, which are made during the block.

    anyio asks sniffio which library runs, if sniffio is installed, as it is with trio. sniffio reads a context
    variable, which `anyio.run` sets and `asyncio.run` does not. Otherwise it looks at the current task, and a callback
    has none.
    """
    sniffio = sys.modules.get("sniffio")
    if sniffio is None or not on_asyncio() or sniffio.current_async_library_cvar.get() is not None:
        yield
        return
    token = sniffio.current_async_library_cvar.set("asyncio")
    try:
        yield
    finally:
        sniffio.current_async_library_cvar.reset(token)


def note_asyncio() -> None:
    """Have anyio recognise asyncio in the current context from now on; see `known_to_anyio`. On trio, do nothing.

    Call this before a task is started by a callback, which can have the context of another program: that of a transport
    of uvicorn, or of a task that has broadcast a message.
    """
    sniffio = sys.modules.get("sniffio")
    if sniffio is None or sniffio.current_async_library_cvar.get() is not None:
        return
    if getattr(sniffio.thread_local, "name", None) is None and asyncio._get_running_loop() is not None:
        sniffio.current_async_library_cvar.set("asyncio")


def check_no_loop() -> None:
    """Raise if an event loop runs in this thread.

    Raises:
        ConfigurationError: an event loop runs.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        try:
            anyio.get_current_task()
        except RuntimeError:
            return
    raise ConfigurationError(
        "App.run() starts an event loop, but this thread runs one already: use `await app.serve()` instead"
    )


def loop_options(backend: str, uvloop: bool | None) -> dict[str, Any]:
    """Return the `backend_options` for `anyio.run`.

    Args:
        backend: "asyncio" or "trio".
        uvloop: for asyncio, whether to use uvloop; None uses it if it is installed.

    Raises:
        ConfigurationError: the backend does not exist or is not installed.
    """
    if backend not in ("asyncio", "trio"):
        hint = "; for uvloop write uvloop=True" if backend == "uvloop" else ""
        raise ConfigurationError(f'backend must be "asyncio" or "trio", not {backend!r}{hint}')
    if backend == "trio":
        if uvloop:
            raise ConfigurationError("uvloop is an event loop of asyncio and cannot run trio: remove uvloop=True")
        if not _installed("trio"):
            raise ConfigurationError("trio is not installed: pip install 'pywsapp[trio]'")
        return {}
    if uvloop and not _installed("uvloop"):
        raise ConfigurationError("uvloop is not installed: pip install 'pywsapp[uvloop]'")
    return {"use_uvloop": _installed("uvloop") if uvloop is None else uvloop}


def count_tasks() -> int:
    """Return how many tasks the running event loop has; 0 outside of one."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        pass
    try:
        return len(anyio.get_running_tasks())
    except RuntimeError:
        return 0


def thread_safe_call_soon() -> CallSoon:
    """Return a function that calls another one in the running event loop; any thread can call it. It never blocks.

    The function raises RuntimeError when the event loop has ended.
    """
    if on_asyncio():
        return asyncio.get_running_loop().call_soon_threadsafe
    call_soon: CallSoon = sys.modules["trio"].lowlevel.current_trio_token().run_sync_soon
    return call_soon


def call_at_end_of_turn() -> Callable[[Callable[[], None]], Any]:
    """Return what calls a function at the end of a turn of the running event loop, which is asyncio or uvloop.

    asyncio keeps the context of a write for all later callbacks of a transport whose peer is slow. So it writes in the
    context of the caller of this function, not in that of the handler that was the first to send in a turn. uvloop
    keeps the context in which a transport was made.
    """
    loop = asyncio.get_running_loop()
    call_soon = loop.call_soon
    if not isinstance(loop, asyncio.BaseEventLoop):
        return call_soon
    context = contextvars.copy_context()

    def call_in_context(function: Callable[[], None]) -> None:  # costs less than a `functools.partial` with a keyword
        call_soon(function, context=context)

    return call_in_context


def loop_name() -> str:
    """Return the name of the running event loop, for a log: asyncio, uvloop or trio."""
    if not on_asyncio():
        return "trio"
    module = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return "uvloop" if module == "uvloop" else "asyncio"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # sys.modules has None or a module without a spec
        return False
