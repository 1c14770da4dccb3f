"""The thread that a connection or topic belongs to: that of its event loop."""

from __future__ import annotations

from threading import get_ident

from pywsapp.exceptions import ConfigurationError

#: Returns the number of the current thread; an alias, since a function of its own would cost as much again.
current_thread = get_ident


def wrong_thread(what: str) -> ConfigurationError:
    """Return the error for a call from another thread than the event loop's.

    Args:
        what: the call, "conn.send" for instance.
    """
    return ConfigurationError(
        f"{what} was called from another thread than the event loop's: write anyio.from_thread.run_sync({what}, ...); "
        "in a thread that anyio did not start, also pass it a token, which anyio.lowlevel.current_token() returns "
        "in the event loop"
    )
