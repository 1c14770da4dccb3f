"""Which build of the innermost modules is in use: the Python source, or its compiled twin.

The twins lie beside their sources, and import takes them first. With `PYWSAPP_PURE` set to anything when the package is
imported, only sources are found. To be imported before all the rest of the package.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, SourceFileLoader

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def compiled() -> list[str]:
    """Give the names of the modules that were imported compiled; none means that all is Python."""
    names = [name for name in sys.modules if name.startswith("pywsapp.")]
    return sorted(n for n in names if str(getattr(sys.modules[n], "__file__", "")).endswith(tuple(EXTENSION_SUFFIXES)))


def describe() -> str:
    """Give the build in two words."""
    return "compiled twin" if compiled() else "pure Python"


def _find_sources_only() -> None:
    for folder, _, _ in os.walk(_PACKAGE):
        sys.path_importer_cache[folder] = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))


if os.environ.get("PYWSAPP_PURE"):
    _find_sources_only()
