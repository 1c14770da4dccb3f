"""Numbers of the command line, for argparse."""

from __future__ import annotations

import argparse
import math
import re

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_BYTES = re.compile(r"([0-9]{1,12})([kmg]?)(?:ib|b)?", re.IGNORECASE)


def seconds(text: str) -> float:
    """Return a number from 0 on; inf for no limit."""
    number = _number(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, or inf, not {text!r}")
    return number


def positive(text: str) -> float:
    """Return a finite number greater than 0."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, not {text!r}")
    return number


def count(text: str) -> int:
    """Return a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def bytes_number(text: str) -> int:
    """Return a number of bytes, which can have a unit: 500, 16k, 1m, 2g."""
    found = _BYTES.fullmatch(text)
    if found is None or not int(found[1]):
        raise argparse.ArgumentTypeError(f"must be a number of bytes such as 500, 16k or 1m, not {text!r}")
    return int(found[1]) * _UNITS[found[2].lower()]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
