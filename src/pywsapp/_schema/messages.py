"""The messages of a component: what a document says about each of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pywsapp._messages.description import Messages, messages_of
from pywsapp._messages.procedures import MAX_ID, Procedure
from pywsapp._schema.routes import DocumentedRoute
from pywsapp._schema.schemas import Schema, Schemas, first_paragraph, json_value
from pywsapp.codecs.kinds import TAG_FIELD, is_dict, is_message_type, members_of, name_of_kind, tag_of
from pywsapp.component import MessageComponent
from pywsapp.exceptions import ConfigurationError

TEXT: Schema = {"type": "string"}
BINARY: Schema = {"type": "string", "format": "binary"}
_CALL_ID: Schema = {"type": ["integer", "string"], "maxLength": MAX_ID}
_OWN_ID: Schema = {**_CALL_ID, "description": "Chosen by the client. A call without it gets no reply."}
_REPLY_ID: Schema = {**_CALL_ID, "description": "The id of the call."}
_CODE: Schema = {"type": "string", "description": "The kind of the error, for programs."}
_MESSAGE: Schema = {"type": "string", "description": "What is wrong, for developers."}
_PATH: Schema = {"type": "string", "description": "Where it is wrong, such as $.user.name."}


class Message(NamedTuple):
    """A message of a route.

    Args:
        name: the name that the document prefers.
        tag: the value that tells it from other messages; None if there is none.
        description: what it is for; can be empty.
        payload: its schema.
        raw: `str` or `bytes` if it is no object of the codec.
        is_call: whether it belongs to a call, so that it has an id.
    """

    name: str
    tag: str | None
    description: str
    payload: Schema
    raw: type | None = None
    is_call: bool = False


class Call(NamedTuple):
    """A procedure: its name, what a client sends, and the replies."""

    name: str
    description: str
    request: Message
    replies: tuple[Message, ...]


def received_kinds(route: DocumentedRoute) -> Iterator[Any]:
    """Return the types that clients send on a route."""
    found = _messages_of(route)
    yield from (message.type for message in found.accepts)
    for procedure in found.procedures:
        yield from procedure.parameters.values()


def sent_kinds(route: DocumentedRoute) -> Iterator[Any]:
    """Return the types that the server sends on a route.

    Raises:
        ConfigurationError: `sends` of the component has something else than types of messages.
    """
    yield from (procedure.result for procedure in _messages_of(route).procedures)
    yield from (one.type for one in _messages_of(route).sends if one.type not in (str, bytes))


def received(route: DocumentedRoute, schemas: Schemas) -> list[Message]:
    """Return the messages that clients send on a route, without calls."""
    typed = route.typed
    if typed is None:
        return [] if route.component is None else [_raw(kind) for kind in _raw_kinds(route.component)]
    messages = [_of_kind(kind, schemas) for kind in typed.accepted.types]
    for tag, (kind, handler) in typed.tagged.items():
        messages.append(_tagged(_of_kind(kind, schemas), str(tag), kind, handler, schemas))
    return [*messages, *map(_raw, typed.accepted.raw)]


def sent(route: DocumentedRoute, schemas: Schemas) -> list[Message]:
    """Return the messages that the server sends on a route, without replies to calls."""
    kinds = [one.type for one in _messages_of(route).sends]
    messages = [_raw(kind) if kind in (str, bytes) else _of_kind(kind, schemas) for kind in kinds]
    if route.typed is not None and route.component.on_invalid is MessageComponent.on_invalid:  # type: ignore[union-attr]
        messages.append(_error())
    return messages


def calls(route: DocumentedRoute, schemas: Schemas) -> list[Call]:
    """Return the procedures that clients can call on a route."""
    typed = route.typed
    return [] if typed is None else [_call(found, schemas) for _, found in sorted(typed.procedures.items())]


def type_name(text: str) -> str:
    """Return a text as the name of a type: `math.add` as MathAdd."""
    words = re.findall(r"[A-Za-z0-9]+", text)
    return "".join(word[0].upper() + word[1:] for word in words) or "Message"


def _messages_of(route: DocumentedRoute) -> Messages:
    """Return the types of the messages of a route.

    Raises:
        ConfigurationError: `sends` of its component has something else than types of messages.
    """
    kind = route.component
    if kind is None:
        return Messages((), (), ())
    if not isinstance(kind.sends, (list, tuple)):
        raise ConfigurationError(f"{kind.__name__}.sends is a list of types: write sends = [Joined, Said]")
    for member in [member for one in kind.sends for member in members_of(one)]:
        if member not in (str, bytes) and not is_message_type(member):
            raise ConfigurationError(
                f"{kind.__name__}.sends has {name_of_kind(member)}, which is no type of messages: "
                "write sends = [Joined, Said], or [str] for text"
            )
    return messages_of(kind)


def _raw_kinds(kind: type[MessageComponent]) -> tuple[type, ...]:
    """Return what a component without typed messages takes: text, bytes or both."""
    if kind.on_message is MessageComponent.on_message:
        return ()
    try:
        annotation = list(inspect.signature(kind.on_message).parameters.values())[2].annotation
    except (IndexError, TypeError, ValueError):
        return (str, bytes)
    names = {"str": (str,), "bytes": (bytes,)}
    return names.get(annotation if isinstance(annotation, str) else getattr(annotation, "__name__", ""), (str, bytes))


def _raw(kind: type) -> Message:
    if kind is str:
        return Message("Text", None, "A text message.", TEXT, str)
    return Message("Binary", None, "A binary message.", BINARY, bytes)


def _of_kind(kind: Any, schemas: Schemas) -> Message:
    schema = schemas.of(kind)
    if is_dict(kind):
        return Message("AnyObject", None, "Any object.", schema)
    name = schema.get("$ref", "").rpartition("/")[2] or type_name(name_of_kind(kind))
    tag = tag_of(kind)
    resolved = schemas.resolved(schema)
    required = resolved.get("required", ())
    if tag is not None and "properties" in resolved and tag[0] not in required:
        resolved["required"] = [tag[0], *required]  # it has a default value in Python, but a message must have it
    return Message(name, None if tag is None else str(tag[1]), resolved.get("description", ""), schema)


def _tagged(message: Message, tag: str, kind: Any, handler: Any, schemas: Schemas) -> Message:
    """Return the message of a handler by tag: with the tag, if its type has none, and the docstring of the handler."""
    own = first_paragraph(handler.__doc__)
    if tag_of(kind) is not None:
        return message._replace(description=message.description or own)
    schema = schemas.resolved(message.payload)
    others = {name: part for name, part in schema.get("properties", {}).items() if name != TAG_FIELD}
    payload: Schema = {**schema, "type": "object", "properties": {TAG_FIELD: {"const": tag}, **others}}
    payload["required"] = list(dict.fromkeys((TAG_FIELD, *schema.get("required", ()))))
    if is_dict(kind):
        payload["additionalProperties"] = True
    payload.pop("title", None)
    return message._replace(name=type_name(tag), tag=tag, description=own or message.description, payload=payload)


def _error() -> Message:
    properties = {"type": {"const": "error"}, "code": _CODE, "message": _MESSAGE, "path": _PATH}
    payload = {"type": "object", "properties": properties, "required": list(properties)}
    return Message("ErrorMessage", "error", "A message of the client was not valid.", payload)


def _call_error() -> Message:
    error = {
        "type": "object",
        "properties": {"code": _CODE, "message": _MESSAGE, "path": _PATH},
        "required": ["code", "message"],
    }
    payload = {"type": "object", "properties": {"id": _REPLY_ID, "error": error}, "required": ["id", "error"]}
    return Message("CallError", None, "A call failed.", payload, is_call=True)


def _call(procedure: Procedure, schemas: Schemas) -> Call:
    name, description = type_name(procedure.name), first_paragraph(procedure.function.__doc__)
    defaults = inspect.signature(procedure.function).parameters
    properties: dict[str, Schema] = {}
    required: list[str] = []
    for parameter, kind in procedure.parameters.items():
        default = defaults[parameter].default
        properties[parameter] = schemas.of(kind)
        if default is inspect.Parameter.empty:
            required.append(parameter)
        elif "$ref" not in properties[parameter]:
            properties[parameter] = {**properties[parameter], "default": json_value(default)}
    params: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        params["required"] = required
    request: Schema = {
        "type": "object",
        "properties": {"id": _OWN_ID, "method": {"const": procedure.name}, "params": params},
        "required": ["method", "params"] if required else ["method"],
    }
    reply: Schema = {
        "type": "object",
        "properties": {"id": _REPLY_ID, "result": schemas.of(procedure.result)},
        "required": ["id", "result"],
    }
    return Call(
        procedure.name,
        description,
        Message(f"{name}Call", procedure.name, description, request, is_call=True),
        (Message(f"{name}Reply", None, f"The result of {procedure.name}.", reply, is_call=True), _call_error()),
    )
