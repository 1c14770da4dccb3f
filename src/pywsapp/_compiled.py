"""Which build of pywsapp is in use: the compiled build or the pure Python build.

An extension module lies beside its source and has the same name; Python imports it instead of the source. If
`PYWSAPP_PURE` is set when the package is imported, Python finds sources only. The package imports this module first,
because it has no effect on modules that are imported already.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from importlib.util import find_spec

#: The compiled build echoes a small message in 0.5 µs, the pure Python build in 2.2 µs (explanation/performance.md).
_SPEED_UP = 4
#: pip keeps a wheel that it built without a compiler, so its cache must not be used.
_INSTALL = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary pywsapp pywsapp"
_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def compiled() -> list[str]:
    """Return the names of the extension modules that are imported, sorted; an empty list in the pure Python build."""
    names = [name for name in sys.modules if name.startswith("pywsapp.")]
    return sorted(n for n in names if str(getattr(sys.modules[n], "__file__", "")).endswith(tuple(EXTENSION_SUFFIXES)))


def is_compiled() -> bool:
    """Return whether the compiled build is in use, also before its modules are imported."""
    found = find_spec("pywsapp._protocol.frames")
    return found is not None and str(found.origin).endswith(tuple(EXTENSION_SUFFIXES))


def describe() -> str:
    """Return the name of the build that is in use."""
    return "compiled build" if is_compiled() else "pure Python build"


def build_hint() -> str:
    """Return how to get the compiled build, for the line that a server logs when it starts.

    Returns:
        An empty string if the compiled build is in use, if `PYWSAPP_PURE` excludes it, or if this Python cannot have it
        (hatch_build.py compiles for CPython with its global interpreter lock only).
    """
    possible = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
    if is_compiled() or os.environ.get("PYWSAPP_PURE") or not possible:
        return ""
    return f"pure Python build; with a C compiler, `{_INSTALL}` makes it {_SPEED_UP} times as fast"


def _find_sources_only() -> None:
    for folder, _, _ in os.walk(_PACKAGE):
        sys.path_importer_cache[folder] = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))


if os.environ.get("PYWSAPP_PURE"):
    _find_sources_only()
