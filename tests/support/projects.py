"""Projects that `pywsapp new` makes, for tests that run them."""

from __future__ import annotations

import os
from pathlib import Path

from pywsapp.cli import main

__all__ = ["new_project"]


def new_project(folder: Path, name: str) -> Path:
    """Make a project in a directory, and return its own directory."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["new", name]) == 0
    finally:
        os.chdir(before)
    return folder / name
