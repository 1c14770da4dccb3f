"""The public interface at a glance: the docstring of the package lists every name that it exports."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest

import pywsapp

pytestmark = pytest.mark.once
LISTED = re.findall(r"^    (\w+)  +\S", pywsapp.__doc__ or "", re.MULTILINE)


def test_the_docstring_lists_all_names_once() -> None:
    assert sorted(LISTED) == sorted(set(pywsapp.__all__) - {"__version__"})


def test_the_names_exist_and_say_what_they_are() -> None:
    for name in LISTED:
        assert inspect.getdoc(getattr(pywsapp, name)), name


def test_no_public_name_of_the_package_is_left_out() -> None:
    getattr(pywsapp, "App")  # noqa: B009 - the first use of a name loads all of them
    modules = {name for name, value in vars(pywsapp).items() if inspect.ismodule(value)}
    assert {name for name in vars(pywsapp) if not name.startswith("_")} - modules == set(LISTED)


def test_lines_are_short_and_aligned() -> None:
    lines = [line for line in (pywsapp.__doc__ or "").splitlines() if line.startswith("    ")]
    assert {len(re.match(r" +\w+ +", line)[0]) for line in lines} == {25}  # type: ignore[index]
    assert max(map(len, lines)) <= 100


def functions() -> Iterator[Any]:
    """Return all functions and methods that users call or override."""
    for name in LISTED:
        value = getattr(pywsapp, name)
        if not inspect.isclass(value):
            yield value
            continue
        for member, found in inspect.getmembers_static(value) if sys.version_info >= (3, 11) else vars(value).items():
            function = found.fget if isinstance(found, property) else found
            if inspect.isfunction(function) and not member.startswith("_"):
                yield function


def classes_in(hint: Any) -> Iterator[type]:
    """Return the classes that a type hint names."""
    for part in get_args(hint):
        yield from classes_in(part)
    if isinstance(hint, type):
        yield hint


def test_a_program_can_import_every_class_that_a_method_takes_or_returns() -> None:
    """A class of a private module must be exported at the top, or a program cannot write its name in a type hint."""
    hidden = set()
    elsewhere: dict[str, Any] = {"SimpleNamespace": SimpleNamespace, "TypeForm": type}  # imported for type hints only
    for module in [module for name, module in sys.modules.items() if name.startswith("pywsapp.")]:
        elsewhere |= vars(module)
    for function in functions():
        names = {**elsewhere, **vars(sys.modules[function.__module__])}
        for hint in get_type_hints(function, names).values():
            hidden |= {
                f"{found.__module__}.{found.__qualname__}"
                for found in classes_in(hint)
                if found.__module__.startswith("pywsapp._") and found.__name__ not in LISTED
            }
    assert hidden == set()
