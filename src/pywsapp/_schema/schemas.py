"""JSON Schemas of message types, in the dialect of AsyncAPI 3 (draft 7).

msgspec describes Structs, dataclasses, TypedDicts and everything else that it reads; pydantic describes its models,
also those inside of other types. Their two sets of named schemas become one.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from pywsapp._extras import import_extra
from pywsapp._schema.always_sent import always_sent
from pywsapp.codecs.kinds import Library, is_dict, is_pydantic, library_of, name_of_kind
from pywsapp.exceptions import ConfigurationError

Schema = dict[str, Any]
#: Where named schemas are in a document.
PREFIX = "#/components/schemas/"
_PYDANTIC = "pydantic:"
#: Schemas inside of one another; more are cut off.
_MAX_DEPTH = 60


class Schemas:
    """The schemas of types.

    Args:
        received: types that clients send.
        sent: types that the server sends.

    Attributes:
        named: the schemas of classes by their names, sorted.

    Raises:
        ConfigurationError: a type has no schema, or a library is not installed.
    """

    def __init__(self, received: Iterable[Any], sent: Iterable[Any]) -> None:
        self._kinds: list[Any] = []  # keeps the types, whose ids are used
        self._schemas: dict[int, Schema] = {}
        self._models: dict[int, tuple[Any, str]] = {}
        self.named: dict[str, Schema] = {}
        of_msgspec: dict[str, list[Any]] = {"validation": [], "serialization": []}
        for mode, kinds in (("validation", received), ("serialization", sent)):
            for kind in kinds:
                if id(kind) in self._schemas:
                    continue
                self._kinds.append(kind)
                library = library_of(kind)
                if library is Library.PYDANTIC:
                    self._schemas[id(kind)] = self._model(kind, mode)
                elif library is Library.PROTOBUF:
                    self._schemas[id(kind)] = _of_protobuf(kind)
                elif kind is object or is_dict(kind):
                    self._schemas[id(kind)] = {} if kind is object else {"type": "object"}
                else:
                    of_msgspec[mode].append(kind)
                    self._schemas[id(kind)] = {}
        self._describe(of_msgspec["validation"], of_msgspec["serialization"])
        self._describe_models()
        self.named = {name: self._finished(self.named[name]) for name in sorted(self.named)}
        self._schemas = {key: _of_draft_7(schema) for key, schema in self._schemas.items()}

    def of(self, kind: Any) -> Schema:
        """Return the schema of a type: a reference to a named one, or the schema itself."""
        return self._schemas[id(kind)]

    def resolved(self, schema: Schema) -> Schema:
        """Return the schema that a reference names; another schema as it is."""
        name = schema.get("$ref", "")
        return self.named[name.removeprefix(PREFIX)] if name else schema

    def _model(self, kind: Any, mode: str) -> Schema:
        self._models.setdefault(id(kind), (kind, mode))
        return {"$ref": f"{_PYDANTIC}{id(kind)}"}

    def _describe(self, received: list[Any], sent: list[Any]) -> None:
        """Describe what msgspec reads, and mark what the server always sends as required."""
        kinds = [*received, *sent]
        try:
            always = always_sent(received, sent)
            found, self.named = self._components([*kinds, *always])
        except TypeError as error:
            for kind in kinds:  # to find the type that has no schema
                try:
                    self._components([kind])
                except TypeError as exc:
                    reason = " ".join(str(exc).split())
                    raise ConfigurationError(f"{name_of_kind(kind)} has no JSON Schema: {reason}") from None
            raise ConfigurationError(f"the messages have no JSON Schema: {error}") from None
        self._schemas.update((id(kind), schema) for kind, schema in zip(kinds, found[: len(kinds)], strict=True))
        for fields, reference in zip(always.values(), found[len(kinds) :], strict=True):
            schema = self.resolved(reference)
            tags = [name for name in schema.get("required", ()) if name not in fields]
            if schema.get("type") == "object" and (tags or fields):
                schema["required"] = [*tags, *fields]

    def _components(self, kinds: list[Any]) -> tuple[Any, Any]:
        return msgspec.json.schema_components(kinds, schema_hook=self._hook, ref_template=f"{PREFIX}{{name}}")

    def _hook(self, kind: Any) -> Schema:
        if is_pydantic(kind):
            self._kinds.append(kind)
            return self._model(kind, "validation")
        raise NotImplementedError

    def _describe_models(self) -> None:
        """Describe the models of pydantic, and rename what has the name of another schema."""
        if not self._models:
            return
        pydantic = import_extra("pywsapp.codecs.with_pydantic", "pydantic")
        schemas, definitions = pydantic.schemas(list(self._models.values()), f"{PREFIX}{{model}}")
        names: dict[str, str] = {}
        for name, schema in definitions.items():
            number, new = 1, name
            while new in self.named and not _is_same(self.named[new], schema):
                number += 1
                new = f"{name}{number}"
            names[PREFIX + name] = PREFIX + new
            self.named.setdefault(new, schema)
        targets = dict(zip([f"{_PYDANTIC}{key}" for key in self._models], schemas, strict=True))
        for name in names.values():
            key = name.removeprefix(PREFIX)
            self.named[key] = _renamed(self.named[key], names)
        for place, schema in targets.items():
            targets[place] = _renamed(schema, names)
        self.named = {name: _replaced(schema, targets) for name, schema in self.named.items()}
        self._schemas = {key: _replaced(schema, targets) for key, schema in self._schemas.items()}

    def _finished(self, schema: Schema) -> Schema:
        """Return a named schema with the first paragraph of its description only."""
        schema = _of_draft_7(schema)
        if "description" in schema:
            schema["description"] = first_paragraph(schema["description"])
        return schema


def first_paragraph(text: str | None) -> str:
    """Return the first paragraph of a docstring in one line; an empty text if there is none."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def json_value(value: Any) -> Any:
    """Return a value as JSON shows it; a value without a form in JSON as its text."""
    return json.loads(msgspec.json.encode(value, enc_hook=str, order="deterministic"))


def _is_same(one: Schema, other: Schema) -> bool:
    """Return whether two libraries describe the same enumeration: they differ in the order, and one adds the type."""
    if "enum" not in one or "enum" not in other:
        return one == other
    return sorted(map(json.dumps, one["enum"])) == sorted(map(json.dumps, other["enum"]))


def _of_protobuf(kind: Any) -> Schema:
    name = kind.DESCRIPTOR.full_name
    return {"type": "string", "format": "binary", "description": f"A message {name} of Protocol Buffers."}


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    """Return a schema whose references have new names."""
    if isinstance(schema, list):
        return [_renamed(part, names) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: names.get(value, value) if key == "$ref" and isinstance(value, str) else _renamed(value, names)
        for key, value in schema.items()
    }


def _replaced(schema: Any, targets: dict[str, Schema]) -> Any:
    """Return a schema with the schemas of models in place of their marks."""
    if isinstance(schema, list):
        return [_replaced(part, targets) for part in schema]
    if not isinstance(schema, dict):
        return schema
    target = targets.get(schema["$ref"]) if isinstance(schema.get("$ref"), str) else None
    if target is not None:
        return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return {key: _replaced(value, targets) for key, value in schema.items()}


#: Keywords whose values are schemas, lists of schemas, schemas by names, and values.
_ONE = frozenset(("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"))
_MANY = frozenset(("allOf", "anyOf", "oneOf"))
_BY_NAME = frozenset(("patternProperties", "properties"))
_VALUES = frozenset(("const", "default", "enum", "examples"))


def _of_draft_7(schema: Any, depth: int = 0) -> Any:
    """Return a schema in draft 7, without the discriminator, which is an object in OpenAPI and a text in AsyncAPI."""
    if not isinstance(schema, dict):
        return schema
    if depth > _MAX_DEPTH:
        return {}
    names = {"prefixItems": "items", "items": "additionalItems"} if "prefixItems" in schema else {}
    found = {
        names.get(key, key): _keyword(key, value, schema, depth + 1)
        for key, value in schema.items()
        if key != "discriminator"
    }
    if "$ref" in found and len(found) > 1:  # keywords beside a reference have no effect
        return {"allOf": [{"$ref": found.pop("$ref")}], **found}
    return found


def _keyword(key: str, value: Any, schema: Schema, depth: int) -> Any:
    """Return the value of a keyword in draft 7."""
    if key in _ONE:
        return _of_draft_7(value, depth)
    if key in _MANY or key == "prefixItems":
        return [_of_draft_7(part, depth) for part in value]
    if key in _BY_NAME:
        return {name: _without_title(_of_draft_7(part, depth)) for name, part in value.items()}
    if key in _VALUES:
        plain = json_value(value)
        is_set = schema.get("uniqueItems") is True and isinstance(plain, list)
        return sorted(plain, key=json.dumps) if is_set else plain
    return value


def _without_title(schema: Any) -> Any:
    """Return the schema of a property; pydantic makes its title from its name."""
    return {key: value for key, value in schema.items() if key != "title"} if isinstance(schema, dict) else schema
