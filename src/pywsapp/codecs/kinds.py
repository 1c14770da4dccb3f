"""The types that messages can have: which library validates a type, and which tag names it.

Nothing is imported here to recognise the classes of a library: they are recognised by what they have.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Literal, Protocol, Union, get_args, get_origin

from typing_extensions import get_type_hints, is_typeddict

#: The field that names the type of a message.
TAG_FIELD = "type"


class Dataclass(Protocol):
    """An object of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Struct(Protocol):
    """An object of a `msgspec.Struct`."""

    __struct_fields__: ClassVar[tuple[str, ...]]


class Model(Protocol):
    """An object of a model of pydantic."""

    def model_dump(self) -> dict[str, Any]:
        """Return the fields."""


class Generated(Protocol):
    """An object of a generated class of Protocol Buffers."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name of protobuf
        """Return the bytes."""


#: The values that a codec can encode, for type checkers. An int, also a bool, is a float for them.
Encodable = Mapping[str, object] | Sequence[object] | float | Dataclass | Struct | Model | Generated


class Library(Enum):
    """The library that validates a type."""

    NONE = "none"  #: any object; nothing is validated
    MSGSPEC = "msgspec"
    PYDANTIC = "pydantic"
    PROTOBUF = "protobuf"


def is_struct(kind: Any) -> bool:
    """Return whether a type is a `msgspec.Struct`."""
    return isinstance(kind, type) and hasattr(kind, "__struct_config__")


def is_pydantic(kind: Any) -> bool:
    """Return whether a type is a model or a dataclass of pydantic."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


def is_protobuf(kind: Any) -> bool:
    """Return whether a type is a generated class of Protocol Buffers."""
    return isinstance(kind, type) and hasattr(kind, "DESCRIPTOR") and hasattr(kind, "SerializeToString")


def is_object(kind: Any) -> bool:
    """Return whether a type is a dataclass, a TypedDict, or a class of attrs."""
    return is_typeddict(kind) or (
        isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "__attrs_attrs__"))
    )


def is_dict(kind: Any) -> bool:
    """Return whether a type is `dict`, which is any object."""
    return kind is dict or (get_origin(kind) is dict and get_args(kind) in ((str, Any), (str, object)))


def is_message_type(kind: Any) -> bool:
    """Return whether a message can have a type."""
    return is_struct(kind) or is_pydantic(kind) or is_protobuf(kind) or is_object(kind) or is_dict(kind)


def members_of(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, also of those inside of aliases and `Annotated`; a type alone is its own member."""
    if hasattr(kind, "__value__"):  # type X = A | B
        return members_of(kind.__value__)
    if hasattr(kind, "__metadata__"):  # Annotated[X, ...]
        return members_of(kind.__origin__)
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(dict.fromkeys(member for part in get_args(kind) for member in members_of(part)))
    return (kind,)


def library_of(kind: Any) -> Library:
    """Return what validates a type, or a union of types."""
    members = members_of(kind)
    if any(map(is_pydantic, members)):
        return Library.PYDANTIC
    if any(map(is_protobuf, members)):
        return Library.PROTOBUF
    return Library.NONE if len(members) == 1 and is_dict(kind) else Library.MSGSPEC


def tag_of(kind: Any) -> tuple[str, str | int] | None:
    """Return the field that names a type in a message, and the name; None if the type has none.

    A Struct has a tag. Other types have a field `type: Literal["join"]`.
    """
    if is_struct(kind):
        config = kind.__struct_config__
        return None if config.tag is None else (config.tag_field, config.tag)
    if not isinstance(kind, type) or is_dict(kind) or is_protobuf(kind):
        return None
    hint = _hints(kind).get(TAG_FIELD)
    names = get_args(hint) if get_origin(hint) is Literal else ()
    return (TAG_FIELD, names[0]) if len(names) == 1 and isinstance(names[0], (str, int)) else None


def _hints(kind: type) -> dict[str, Any]:
    """Return the types of the fields; none if they cannot be found, which the library of the type reports."""
    try:
        return get_type_hints(kind)
    except Exception:
        return {}


def name_of_kind(kind: Any) -> str:
    """Return the name of a type for messages of errors."""
    return getattr(kind, "__name__", None) or str(kind)


def has_field(kind: Any, name: str) -> bool:
    """Return whether the objects of a type have a field."""
    return isinstance(kind, type) and name in _hints(kind)
