"""Validation with pydantic; imported on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Union

from pywsapp._extras import missing_extra
from pywsapp.codecs.kinds import members_of, name_of_kind, tag_of
from pywsapp.exceptions import ConfigurationError, InvalidMessage

try:
    from pydantic import Field, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "pydantic") from exc


def invalid(exc: ValidationError) -> InvalidMessage:
    """Return the exception for the first thing that pydantic says of a message."""
    first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    path = "$"
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return InvalidMessage(first["msg"], path)


def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return the adapter of a type; models of a union are distinguished by their tags, if all have one.

    Raises:
        ConfigurationError: pydantic cannot validate the type.
    """
    members = members_of(kind)
    fields = {tag[0] for tag in map(tag_of, members) if tag is not None}
    if len(members) > 1 and len(fields) == 1 and all(map(tag_of, members)):
        kind = _distinguished(Union[members], fields.pop())  # noqa: UP007 - a union of a tuple
    try:
        return TypeAdapter(kind)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError, NameError) as exc:
        raise ConfigurationError(f"pydantic cannot validate {name_of_kind(kind)}: {exc}") from None


def _distinguished(union: Any, field: str) -> Any:
    return Annotated[union, Field(discriminator=field)]


def converter(kind: Any) -> Callable[[Any], Any]:
    """Return a function that makes an object of one type from what a codec has read."""
    validate = adapter(kind).validate_python

    def convert(value: Any) -> Any:
        try:
            return validate(value)
        except ValidationError as exc:
            raise invalid(exc) from None
        except RecursionError:
            raise InvalidMessage("the message is nested too deeply") from None

    return convert


def schemas(kinds: list[tuple[Any, Any]], reference: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the JSON Schemas of types, and the schemas that these refer to by their names.

    Args:
        kinds: pairs of a type and the mode, "validation" or "serialization".
        reference: the form of a reference, with `{model}` in place of the name.

    Raises:
        ConfigurationError: a type has no schema.
    """
    inputs = [(number, mode, adapter(kind)) for number, (kind, mode) in enumerate(kinds)]
    try:
        found, definitions = TypeAdapter.json_schemas(inputs, ref_template=reference)
    except PydanticUserError as exc:
        raise ConfigurationError(f"pydantic has no JSON Schema for the messages: {exc}") from None
    return [found[number, mode] for number, mode, _ in inputs], definitions.get("$defs", {})
