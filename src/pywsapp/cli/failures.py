"""The traceback of a program of the user that fails: the user's own frames, without ours."""

from __future__ import annotations

import os
import sysconfig
import traceback

from pywsapp.exceptions import ConfigurationError

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")})
_IMPORT_SYSTEM = ("<frozen importlib", f"{os.sep}importlib{os.sep}")


class ProgramFailed(Exception):
    """The module of the user raised an exception; the text is its traceback without the frames of pywsapp."""

    def __init__(self, exc: BaseException) -> None:
        shown = traceback.TracebackException.from_exception(exc)
        _remove_own_frames(shown, set())
        super().__init__("".join(shown.format()))


def with_place(exc: ConfigurationError) -> ConfigurationError:
    """Return the exception with the line of the user's program that caused it, if there is one."""
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        if not _is_own(frame.filename) and not frame.filename.startswith(("<", *_LIBRARIES))
    ]
    if not frames:
        return exc
    path = os.path.relpath(frames[-1].filename)
    path = frames[-1].filename if path.startswith(os.pardir) else path
    return ConfigurationError(f"{exc} ({path}, line {frames[-1].lineno})")


def _remove_own_frames(shown: traceback.TracebackException, done: set[int]) -> None:
    if id(shown) in done:
        return
    done.add(id(shown))
    kept = [frame for frame in shown.stack if not _is_own(frame.filename)]
    if kept:
        shown.stack[:] = kept
    else:
        shown.stack.clear()  # the exception, for example a SyntaxError, says the place itself
    for other in (shown.__cause__, shown.__context__):
        if other is not None:
            _remove_own_frames(other, done)


def _is_own(filename: str) -> bool:
    return filename.startswith(_PACKAGE) or any(part in filename for part in _IMPORT_SYSTEM)
