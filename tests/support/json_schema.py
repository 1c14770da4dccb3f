"""Checking values against a JSON Schema: as much of it as the schemas of this repository use."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "null": lambda value: value is None,
}
_KEYWORDS: dict[str, Callable[[Any, Any], bool]] = {
    "const": lambda value, const: value == const and type(value) is type(const),
    "enum": lambda value, members: value in members,
    "minimum": lambda value, least: not _TYPES["number"](value) or value >= least,
    "exclusiveMinimum": lambda value, least: not _TYPES["number"](value) or value > least,
    "maximum": lambda value, most: not _TYPES["number"](value) or value <= most,
    "minLength": lambda value, least: not isinstance(value, str) or len(value) >= least,
    "maxLength": lambda value, most: not isinstance(value, str) or len(value) <= most,
    "pattern": lambda value, pattern: not isinstance(value, str) or re.search(pattern, value) is not None,
    "minItems": lambda value, least: not isinstance(value, list) or len(value) >= least,
    "maxItems": lambda value, most: not isinstance(value, list) or len(value) <= most,
    "minProperties": lambda value, least: not isinstance(value, dict) or len(value) >= least,
    "maxProperties": lambda value, most: not isinstance(value, dict) or len(value) <= most,
    "required": lambda value, names: not isinstance(value, dict) or set(names) <= set(value),
}
#: The parts of a value that other schemas are about: each with its schema.
_PARTS: dict[str, Callable[[Any, Any], list[tuple[Any, Any]]]] = {
    "properties": lambda given, value: [(one, value[name]) for name, one in given.items() if name in _fields(value)],
    "propertyNames": lambda given, value: [(given, name) for name in _fields(value)],
    "additionalProperties": lambda given, value: [(given, one) for one in _fields(value).values()],
    "items": lambda given, value: [(given, one) for one in value] if isinstance(value, list) else [],
}
_ANNOTATIONS = {"$schema", "$defs", "title", "description"}


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class Schema:
    """A schema with its definitions.

    Args:
        document: the whole document.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._definitions = document["$defs"]

    def accepts(self, name: str, value: Any) -> bool:
        """Return whether a value is one of a definition."""
        return self._accepts(self._definitions[name], value)

    def _accepts(self, schema: dict[str, Any], value: Any) -> bool:
        return all(self._holds(keyword, given, value) for keyword, given in schema.items())

    def _holds(self, keyword: str, given: Any, value: Any) -> bool:
        if keyword in _ANNOTATIONS:
            return True
        if keyword in _KEYWORDS:
            return _KEYWORDS[keyword](value, given)
        if keyword == "type":
            return any(_TYPES[kind](value) for kind in ([given] if isinstance(given, str) else given))
        if keyword == "$ref":
            return self.accepts(given.removeprefix("#/$defs/"), value)
        if keyword in _PARTS:
            return all(self._accepts(schema, part) for schema, part in _PARTS[keyword](given, value))
        if keyword == "anyOf":
            return any(self._accepts(one, value) for one in given)
        if keyword == "oneOf":
            return sum(self._accepts(one, value) for one in given) == 1
        raise NotImplementedError(keyword)
