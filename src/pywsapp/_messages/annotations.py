"""The meaning of the annotation of a handler's `message`: text and bytes as they come, or types to read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from pywsapp.codecs.kinds import is_message_type, is_protobuf, members_of, name_of_kind, tag_of
from pywsapp.exceptions import ConfigurationError

#: Annotations that mean the message as it came, as objects and as text.
_RAW = (str, bytes, Any, object)
_RAW_TEXTS = frozenset(
    ("str", "bytes", "str | bytes", "bytes | str", "str|bytes", "Any", "typing.Any", "object", "Union[str, bytes]")
)


class Accepted(NamedTuple):
    """The messages that a handler accepts.

    Args:
        types: the types that are read; none if messages come as they are.
        raw: `str` or `bytes` beside the types, for messages of the kind that the codec does not use.
    """

    types: tuple[Any, ...] = ()
    raw: tuple[type, ...] = ()


def accepted_by(function: Callable[..., Any], label: str) -> Accepted:
    """Return what a handler accepts by its last parameter.

    Args:
        function: the handler `(self, conn, message)`.
        label: its name, for messages.

    Raises:
        ConfigurationError: the annotation is no type that can be read.
    """
    annotation = annotation_of(function, 2, label)
    return Accepted() if annotation is inspect.Parameter.empty else accepted_types(annotation, label)


def accepted_types(annotation: Any, label: str) -> Accepted:
    """Return what an annotation accepts: a type or a union of types.

    Args:
        annotation: the annotation, evaluated.
        label: what it belongs to, for messages.

    Raises:
        ConfigurationError: it is no type that can be read.
    """
    members = members_of(annotation)
    if all(any(member is raw for raw in _RAW) for member in members):
        return Accepted()
    types = tuple(member for member in members if member not in (str, bytes))
    for member in types:
        if not is_message_type(member):
            raise ConfigurationError(
                f"{label}: {name_of_kind(member)} is no type of messages. Use str, bytes, dict, or msgspec Structs, "
                "dataclasses, TypedDicts, pydantic models or protobuf classes"
            )
    if len(types) > 1:
        _check_union(types, label)
    return Accepted(types, tuple(member for member in members if member in (str, bytes)))


def annotation_of(function: Callable[..., Any], position: int, label: str) -> Any:
    """Return the annotation of a parameter, evaluated; `Parameter.empty` if there is none.

    Raises:
        ConfigurationError: it names something that does not exist at run time.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        return inspect.Parameter.empty
    if len(parameters) <= position:
        return inspect.Parameter.empty
    annotation = parameters[position].annotation
    return evaluated(annotation, function, label) if isinstance(annotation, str) else annotation


def evaluated(annotation: str, function: Callable[..., Any], label: str) -> Any:
    """Return what an annotation in the form of text stands for.

    Raises:
        ConfigurationError: it names something that does not exist at run time.
    """
    if annotation in _RAW_TEXTS:
        return Any
    inner = inspect.unwrap(function)
    names = dict(getattr(inner, "__globals__", {}))
    try:
        names |= inspect.getclosurevars(inner).nonlocals
        found = eval(annotation, names)
    except Exception as exc:
        raise ConfigurationError(
            f"{label}: the annotation {annotation!r} cannot be read: {exc}. "
            "Define its types at the top level of a module, and import them at run time, not for type checkers only"
        ) from None
    is_quoted = isinstance(found, str) and found != annotation
    return evaluated(found, function, label) if is_quoted else found


def _check_union(members: tuple[Any, ...], label: str) -> None:
    if any(map(is_protobuf, members)):
        raise ConfigurationError(f"{label}: use one protobuf class; it can have a oneof of the others")
    fields: set[str] = set()
    tags: set[str | int] = set()
    for member in members:
        found = tag_of(member)
        if found is None:
            name = name_of_kind(member)
            raise ConfigurationError(
                f"{label}: {name} needs a tag, which tells it from the other types: "
                f'write class {name}(msgspec.Struct, tag="..."), or a field type: Literal["..."]'
            )
        field, tag = found
        if tag in tags:
            raise ConfigurationError(f"{label}: two types have the tag {tag!r}")
        fields.add(field)
        tags.add(tag)
    if len(fields) > 1:
        raise ConfigurationError(f"{label}: the types have different tag fields: {', '.join(sorted(fields))}")
