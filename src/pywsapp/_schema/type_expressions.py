"""JSON Schemas as types of TypeScript."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Json = dict[str, Any]
_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
#: Types inside of one another; deeper ones are `unknown`.
_MAX_DEPTH = 40


class Context(NamedTuple):
    """The meaning of a schema in one place.

    Args:
        names: the types of the named schemas.
        binary: the type of bytes.
    """

    names: Mapping[str, str]
    binary: str

    def declaration(self, name: str, schema: Json) -> str:
        """Return an interface for an object with properties, and an alias for everything else."""
        if schema.get("type") != "object" or not schema.get("properties"):
            return declared(name, self.expression(schema), _text_of(schema))
        lines = [
            f"{comment_of(_text_of(part), '  ')}  {key}: {self.expression(part)};\n"
            for key, part in _properties(schema)
        ]
        return f"{comment_of(_text_of(schema))}export interface {name} {{\n{''.join(lines)}}}\n"

    def expression(self, schema: Any, depth: int = 0) -> str:
        """Return the type of a schema."""
        if schema is False:
            return "never"
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            return "unknown"
        if "$ref" in schema:
            return self.names[schema["$ref"].rpartition("/")[2]]
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if values is not None:
            return union(map(_literal, values)) or "never"
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return union(self.expression(part, depth + 1) for part in schema[keyword])
        if "allOf" in schema:
            parts = [self.expression(part, depth + 1) for part in schema["allOf"]]
            return " & ".join(f"({part})" if " | " in part and len(parts) > 1 else part for part in parts)
        kinds = schema.get("type", [])
        return (
            union(self._of_type(k, schema, depth) for k in ([kinds] if isinstance(kinds, str) else kinds)) or "unknown"
        )

    def _of_type(self, kind: str, schema: Json, depth: int) -> str:
        """Return the type of a schema that says which of the types of JSON its values have."""
        if kind == "array":
            return self._array(schema, depth)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "string" and ("contentEncoding" in schema or schema.get("format") == "binary"):
            return self.binary
        return _SIMPLE.get(kind, "unknown")

    def _array(self, schema: Json, depth: int) -> str:
        items = schema.get("items", {})
        if not isinstance(items, list):
            return f"Array<{self.expression(items, depth + 1)}>"
        least = schema.get("minItems", 0)
        parts = [self.expression(item, depth + 1) for item in items]
        parts = [part if number < least else f"({part})?" for number, part in enumerate(parts)]
        others = schema.get("additionalItems", {})
        if others is not False:
            parts.append(f"...Array<{self.expression(others, depth + 1)}>")
        return f"[{', '.join(parts)}]"

    def _object(self, schema: Json, depth: int) -> str:
        parts = [f"{key}: {self.expression(part, depth + 1)}" for key, part in _properties(schema)]
        if parts:
            return f"{{ {'; '.join(parts)} }}"
        others = schema.get("additionalProperties", {})
        return f"Record<string, {self.expression(others, depth + 1)}>"


def _properties(schema: Json) -> Iterator[tuple[str, Any]]:
    """Return the properties of an object: the name, with a question mark if it can be absent, and the schema.

    If there can be others too, and the schema says so, an index signature follows.
    """
    required = schema.get("required", ())
    for name, part in schema.get("properties", {}).items():
        yield key_of(name) + ("" if name in required else "?"), part
    if schema.get("properties") and schema.get("additionalProperties", False) is not False:
        yield "[other: string]", {}


def declared(name: str, expression: str, description: str) -> str:
    """Return the declaration of an alias."""
    return f"{comment_of(description)}export type {name} = {expression};\n"


def union(parts: Iterable[str]) -> str:
    """Return the union of types; an empty text if there are none."""
    return " | ".join(dict.fromkeys(parts))


def key_of(name: str) -> str:
    """Return the name of a property, in quotes if it is no identifier."""
    return name if _IDENTIFIER.fullmatch(name) else json.dumps(name)


def referenced(schema: Any) -> set[str]:
    """Return the names of the schemas that a schema refers to."""
    if isinstance(schema, list):
        return {name for part in schema for name in referenced(part)}
    if not isinstance(schema, dict):
        return set()
    own = schema.get("$ref")
    names = {own.rpartition("/")[2]} if isinstance(own, str) else set()
    return names | {name for part in schema.values() for name in referenced(part)}


def comment_of(text: str, indent: str = "") -> str:
    """Return a text as a comment of JSDoc in one line; nothing for an empty text."""
    line = " ".join(text.replace("*/", "*\\/").split())
    return f"{indent}/** {line} */\n" if line else ""


def _literal(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, (str, int, float)) else "unknown"


def _text_of(schema: Any) -> str:
    return schema.get("description", "") if isinstance(schema, dict) else ""
