"""Objects as plain values, for libraries that do not know their classes."""

from __future__ import annotations

import dataclasses
from typing import Any

from pywsapp.codecs.kinds import is_struct


def dumped(value: Any) -> Any:
    """Return a Struct of msgspec, a model of pydantic, or a dataclass as plain values; those inside stay objects.

    Raises:
        TypeError: the value is something else.
    """
    kind = type(value)
    if is_struct(kind):
        return _struct(value)
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
    dump = getattr(kind, "model_dump", None)
    if dump is None:
        raise TypeError(f"{kind.__name__} has no form in this codec")
    return dump(value, mode="json")


def _struct(value: Any) -> Any:
    """Return the fields of a Struct, with its tag, as msgspec writes them."""
    kind = type(value)
    config = kind.__struct_config__
    tag = {} if config.tag is None else {config.tag_field: config.tag}
    names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
    fields = tag | {name: getattr(value, field) for name, field in names}
    return list(fields.values()) if config.array_like else fields
