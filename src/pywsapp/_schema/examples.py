"""Examples of messages, made from their schemas."""

from __future__ import annotations

from typing import Any

from pywsapp._schema.type_expressions import Json

_SIMPLE: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": True, "null": None}
_FORMATS = {
    "date-time": "2030-01-31T12:00:00Z",
    "date": "2030-01-31",
    "time": "12:00:00",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "binary": "",
}
#: Objects inside of one another; deeper ones are empty.
_MAX_DEPTH = 6


def example_of(schema: Any, schemas: Json, depth: int = 0) -> Any:
    """Return a value that a schema describes; optional properties without a default value are left out.

    Args:
        schema: the schema.
        schemas: the named schemas.
        depth: how many objects are around it.
    """
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas, depth + 1)
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    for keyword in ("enum", "examples"):
        if schema.get(keyword):
            return schema[keyword][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            return example_of(schema[keyword][0], schemas, depth)
    return _of_type(schema, schemas, depth)


def _of_type(schema: Json, schemas: Json, depth: int) -> Any:
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        required, properties = schema.get("required", ()), schema.get("properties", {})
        shown = {name: part for name, part in properties.items() if name in required or _has_default(part)}
        return {name: example_of(part, schemas, depth + 1) for name, part in shown.items()}
    if kind == "array":
        items = schema.get("items", {})
        return [example_of(item, schemas, depth + 1) for item in (items if isinstance(items, list) else [items])]
    return _FORMATS.get(schema.get("format", ""), "text") if kind == "string" else _SIMPLE.get(kind)


def _has_default(schema: Any) -> bool:
    return isinstance(schema, dict) and bool(schema.get("default"))
