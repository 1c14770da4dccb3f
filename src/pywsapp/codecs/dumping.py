"""Objects as plain values, for libraries that do not know their classes."""

from __future__ import annotations

import dataclasses
from typing import Any


def dumped(value: Any) -> Any:
    """Return a model of pydantic, or a dataclass, as a dict.

    Raises:
        TypeError: the value is something else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(type(value), "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} has no form in this codec")
    return dump(value, mode="json")
