"""Names that clients ask for in TLS and that are not ASCII: the interpreter prints a report about each of them.

With `SSLContext.sni_callback`, `_ssl.c` decodes the name before it calls Python. If that fails, it refuses the client
with an alert, and it passes the error to `sys.unraisablehook`, which prints it. So any client could fill the error
output of the server. The failed handshake is logged at debug level like every other one.
"""

from __future__ import annotations

import sys
from typing import Any


def drop_reports() -> None:
    """Drop these reports, and only these, from now on; further calls do nothing."""
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)


class _Hook:
    """A `sys.unraisablehook` that passes everything else on."""

    def __init__(self, previous: Any) -> None:
        self._previous = previous

    def __call__(self, unraisable: Any, /) -> None:
        exc, name = unraisable.exc_value, unraisable.object
        # `_ssl.c` names the bytes that it could not decode; no other code passes bytes as the source of an error.
        if not (isinstance(exc, UnicodeDecodeError) and type(name) is bytes and exc.object == name):
            self._previous(unraisable)
