"""The messages of a component as facts: what it accepts and sends, by which tags. Documents of its interface use it."""

from __future__ import annotations

from typing import Any, NamedTuple

from pywsapp._messages.typed import TypedMessages
from pywsapp.codecs.kinds import members_of, tag_of


class MessageType(NamedTuple):
    """A type of messages.

    Args:
        type: the class; `dict` for any object.
        tag_field: the field that names the type; None if messages have no such field.
        tag: the value of that field.
    """

    type: Any
    tag_field: str | None
    tag: str | int | None


class ProcedureType(NamedTuple):
    """A procedure that clients can call.

    Args:
        name: its name.
        parameters: the types of its parameters by their names.
        result: the type of its result; `Any` without an annotation.
    """

    name: str
    parameters: dict[str, Any]
    result: Any


class Messages(NamedTuple):
    """The messages of a component.

    Args:
        accepts: the types of messages that it accepts; none if it takes text and bytes.
        sends: the types in its attribute `sends`.
        procedures: what clients can call.
    """

    accepts: tuple[MessageType, ...]
    sends: tuple[MessageType, ...]
    procedures: tuple[ProcedureType, ...]


def messages_of(component: Any) -> Messages:
    """Return the messages of a component that was routed; of middleware, those of the component inside.

    Args:
        component: the target of a route: a component, or a class of components. A function that makes components has
            none, because its result is not known.
    """
    while hasattr(component, "component"):
        component = component.component
    typed = getattr(component, "_typed", None)
    sends = tuple(_described(kind) for one in getattr(component, "sends", ()) for kind in members_of(one))
    if not isinstance(typed, TypedMessages):
        return Messages((), sends, ())
    accepts = tuple(map(_described, typed.accepted.types))
    if typed.tagged:
        accepts = tuple(MessageType(kind, typed.tag_field, tag) for tag, (kind, _) in typed.tagged.items())
    procedures = tuple(ProcedureType(one.name, one.parameters, one.result) for one in typed.procedures.values())
    return Messages(accepts, sends, procedures)


def _described(kind: Any) -> MessageType:
    field, tag = tag_of(kind) or (None, None)
    return MessageType(kind, field, tag)
