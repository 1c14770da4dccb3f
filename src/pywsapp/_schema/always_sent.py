"""Fields that the server always sends, although a client could leave them out: those with a default value.

A class that only the server sends gets a schema in which they are required, so that a client need not expect them to be
absent. A class that clients send too has one schema for both directions, in which they are optional.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import inspect


def always_sent(received: Iterable[Any], sent: Iterable[Any]) -> dict[Any, list[str]]:
    """Return the classes that only the server sends, each with the names of the fields that it always has."""
    accepted = _classes(received)
    return {
        kind: [field.encode_name for field in info.fields if _is_always_sent(field)]
        for kind, info in _classes(sent).items()
        if kind not in accepted and not _omits_defaults(kind)
    }


def _classes(kinds: Iterable[Any]) -> dict[Any, inspect.StructType | inspect.DataclassType]:
    """Return the Structs and dataclasses in types, with what msgspec knows of them."""
    found: dict[Any, inspect.StructType | inspect.DataclassType] = {}
    seen: set[int] = set()
    waiting: list[Any] = list(inspect.multi_type_info(tuple(kinds)))
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, (inspect.StructType, inspect.DataclassType)):
            found.setdefault(part.cls, part)
        if isinstance(part, (inspect.Type, inspect.Field)):
            waiting += [getattr(part, name) for name in part.__struct_fields__]
        elif isinstance(part, tuple):
            waiting += part
    return found


def _is_always_sent(field: inspect.Field) -> bool:
    """Return whether a field is in each message; one that can be UNSET has no default in the eyes of msgspec."""
    has_default = field.default is not msgspec.NODEFAULT or field.default_factory is not msgspec.NODEFAULT
    return field.required or has_default


def _omits_defaults(kind: Any) -> bool:
    config = getattr(kind, "__struct_config__", None)
    return config is not None and config.omit_defaults
