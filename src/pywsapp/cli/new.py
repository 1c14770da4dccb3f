"""`pywsapp new`: make a project with a component, its test, and what is needed to deploy it."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path
from typing import Any

from pywsapp.cli.output import write
from pywsapp.cli.parser import add_command

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_MAX_NAME = 60
_TAKEN = {"pywsapp", "pywsapp_pytest", "tests", "test", "deploy", "pytest"}


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    command = add_command(
        commands,
        "new",
        _act,
        help="make a project: component, test, Dockerfile, systemd unit, CI",
        description="Make a project in a new directory: a component with its test, a Dockerfile, a unit for systemd "
        "and a workflow for GitHub",
    )
    command.add_argument("name", metavar="NAME", type=_name, help="the name of the project and of its directory")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text) or len(text) > _MAX_NAME:
        raise argparse.ArgumentTypeError(
            f"must be lower-case letters, digits, - and _, from a letter on, such as my-chat, not {text!r}"
        )
    module = _module_of(text)
    if module in _TAKEN or module in sys.stdlib_module_names or keyword.iskeyword(module):
        raise argparse.ArgumentTypeError(f"must be another one, because Python or pywsapp has a module {module}")
    return text


def _module_of(name: str) -> str:
    return name.replace("-", "_")


def _act(chosen: argparse.Namespace) -> None:
    from pywsapp._version import __version__
    from pywsapp.cli.project_files import FILES
    from pywsapp.exceptions import ConfigurationError

    name: str = chosen.name
    values = {"@NAME@": name, "@MODULE@": _module_of(name), "@VERSION@": __version__}
    folder = Path(name)
    try:
        folder.mkdir()
    except FileExistsError:
        raise ConfigurationError(f"{folder} exists already; choose another name") from None
    except OSError as exc:
        raise ConfigurationError(f"cannot make the directory {folder}: {exc.strerror}") from None
    try:
        for path, content in FILES.items():
            file = folder / _filled(path, values)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_filled(content, values), encoding="utf-8", newline="\n")
    except OSError as exc:
        raise ConfigurationError(f"cannot write {file}: {exc.strerror}; remove {folder} and try again") from None
    write(
        f"made {folder}/ with {len(FILES)} files\n\n"
        f"    cd {folder}\n"
        f"    pywsapp run {values['@MODULE@']}.app --reload\n"
        f"    pywsapp connect localhost:8080/room\n\n"
        f"{folder}/README.md has the next steps\n"
    )


def _filled(text: str, values: dict[str, str]) -> str:
    for place, value in values.items():
        text = text.replace(place, value)
    return text
