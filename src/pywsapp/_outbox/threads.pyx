"""The thread that a connection or topic belongs to: that of its event loop; compiled, one C call for each message."""

from cpython.pythread cimport PyThread_get_thread_ident

from pywsapp.exceptions import ConfigurationError


cpdef unsigned long current_thread() noexcept:
    """Return the number of the current thread."""
    return PyThread_get_thread_ident()


def wrong_thread(str what):
    """Return the error for a call from another thread than the event loop's.

    Args:
        what: the call, "conn.send" for instance.
    """
    return ConfigurationError(
        f"{what} was called from another thread than the event loop's: write anyio.from_thread.run_sync({what}, ...); "
        "in a thread that anyio did not start, also pass it a token, which anyio.lowlevel.current_token() returns "
        "in the event loop"
    )
