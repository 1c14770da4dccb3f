"""The typed handlers of a component class: found once, when a component of the class is routed.

A class whose `on_message` takes text and bytes stays as it is. For others `on_message` is replaced by a method that
reads the message with the codec of the connection, and calls the handler.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pywsapp._messages.annotations import Accepted, accepted_by
from pywsapp._messages.marks import PROCEDURE_MARK, TAG_MARK
from pywsapp._messages.oneofs import Oneof
from pywsapp._messages.procedures import Procedure
from pywsapp._messages.reading import (
    Handler,
    Reader,
    Tagged,
    by_tag,
    is_distinguishable,
    object_reader,
    single_reader,
    tag_field,
    tagged_reader,
)
from pywsapp._signatures import check_takes
from pywsapp.codecs.base import Codec
from pywsapp.codecs.kinds import is_protobuf, name_of_kind, tag_of
from pywsapp.component import MessageComponent
from pywsapp.exceptions import ConfigurationError

_ON_MESSAGE_MARK = "_pywsapp_typed"


class TypedMessages:
    """The typed handlers of one component class, and the messages that they accept.

    Args:
        label: names `on_message` of the class, for messages.
        accepted: what `on_message` accepts.
        handler: `on_message` of the class; None if it has handlers by tag, or procedures only.
        tagged: the types of handlers by tag, with the handlers.
        procedures: the procedures by their names.
        oneof: the handlers of the fields of the class that `on_message` accepts; None without such handlers.
    """

    def __init__(
        self,
        label: str,
        accepted: Accepted,
        handler: Handler | None,
        tagged: Tagged,
        procedures: dict[str, Procedure],
        oneof: Oneof | None = None,
    ) -> None:
        self.label = label
        self.accepted = accepted
        self.tagged = tagged
        self.procedures = procedures
        self._handler = handler
        self._oneof = oneof
        self._readers: dict[Codec, Reader] = {}

    @property
    def tag_field(self) -> str:
        """The field that names the types of handlers by tag."""
        return tag_field(self.tagged)

    def reader(self, codec: Codec) -> Reader:
        """Return what reads the messages of a codec; it is made once for each codec.

        Raises:
            ConfigurationError: the codec cannot read one of the types, or a library is not installed.
        """
        reader = self._readers.get(codec)
        if reader is None:
            reader = self._readers[codec] = self._make_reader(codec)
        return reader

    def _make_reader(self, codec: Codec) -> Reader:
        handler, types = self._handler, self.accepted.types
        if not self.procedures:
            if handler is None:
                return tagged_reader(codec, self.tagged)
            if self._oneof is not None:
                return self._oneof.reader(codec.decoder(types[0]), handler)
            return single_reader(codec, self.accepted, handler, self.label)
        if handler is None:
            return object_reader(codec, self.tagged, self.procedures)
        if is_distinguishable(types) and (len(types) == 1 or tag_of(types[0]) is None):
            return object_reader(codec, {}, self.procedures, (types[0], handler))
        return object_reader(codec, by_tag(types, handler), self.procedures)


def prepare(kind: type[MessageComponent]) -> None:
    """Find the typed handlers of a component class, and replace its `on_message` if there are any.

    Raises:
        ConfigurationError: the handlers contradict each other, or an annotation is no type that can be read.
    """
    label = f"{kind.__name__}.on_message"
    tags, procedures = marked_methods(kind)
    function: Any = kind.on_message
    original = getattr(function, _ON_MESSAGE_MARK, function)
    is_own = original is not None and original is not MessageComponent.on_message
    accepted = accepted_by(original, label) if is_own else Accepted()
    oneof = None
    if tags and is_own and not accepted.raw and any(map(is_protobuf, accepted.types)):
        oneof = Oneof(accepted.types[0], {str(tag): handler for tag, (_, handler) in tags.items()}, kind.__name__)
        tags = {}
    if tags and is_own:
        raise ConfigurationError(f"{kind.__name__} has both on_message and handlers with @on: leave one of the two out")
    if procedures and is_own and not accepted.types:
        raise ConfigurationError(
            f"{label}: beside procedures, `message` needs a type such as dict, because all messages are objects"
        )
    if not tags and not procedures and not accepted.types:
        if isinstance(kind._typed, TypedMessages):
            kind._typed = None
        return
    kind._typed = TypedMessages(label, accepted, original if is_own else None, tags, procedures, oneof)
    if function is original or not is_own:
        kind.on_message = _reading(original if is_own else None)  # type: ignore[method-assign]


def _reading(handler: Handler | None) -> Any:
    """Return an `on_message` that reads the message with the codec of the connection."""

    def on_message(self: Any, conn: Any, message: Any) -> Any:
        if type(message) is str or type(message) is bytes:
            return conn._messages.receive(self, conn, message)
        if handler is None:
            raise TypeError(f"{type(self).__name__}.on_message takes a str or bytes, not {type(message).__name__}")
        return handler(self, conn, message)  # a subclass, or a test, calls it with an object

    setattr(on_message, _ON_MESSAGE_MARK, handler)
    return on_message if handler is None else functools.wraps(handler)(on_message)


def marked_methods(kind: type[MessageComponent]) -> tuple[Tagged, dict[str, Procedure]]:
    """Return the handlers by tag and the procedures of a class.

    Raises:
        ConfigurationError: they contradict each other.
    """
    tags: dict[str, Any] = {}
    names: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for attribute, member in vars(base).items():
            if hasattr(member, TAG_MARK):
                tags[attribute] = getattr(member, TAG_MARK)
            if hasattr(member, PROCEDURE_MARK):
                names[attribute] = getattr(member, PROCEDURE_MARK)
    tagged: dict[str | int, tuple[Any, Handler]] = {}
    for attribute, tag in tags.items():
        label = f"{kind.__name__}.{attribute}"
        handler = getattr(kind, attribute)
        check_takes(handler, ("self", "conn", "message"), label)
        if tag in tagged:
            raise ConfigurationError(f"{label}: another handler has the tag {tag!r} already")
        tagged[tag] = (_type_of(handler, tag, label), handler)
    if len({field for kind_, _ in tagged.values() if (found := tag_of(kind_)) is not None for field in found[:1]}) > 1:
        raise ConfigurationError(f"{kind.__name__}: the types of its handlers have different tag fields")
    procedures: dict[str, Procedure] = {}
    for attribute, name in names.items():
        label = f"{kind.__name__}.{attribute}"
        if name in procedures:
            raise ConfigurationError(f"{label}: another procedure has the name {name!r} already")
        procedures[name] = Procedure(name, getattr(kind, attribute), label)
    return tagged, procedures


def _type_of(handler: Callable[..., Any], tag: str, label: str) -> Any:
    accepted = accepted_by(handler, label)
    if accepted.raw or len(accepted.types) > 1:
        raise ConfigurationError(f"{label}: the messages with one tag have one type")
    if not accepted.types:
        return dict
    kind = accepted.types[0]
    own = tag_of(kind)
    if own is not None and own[1] != tag:
        raise ConfigurationError(f"{label}: the tag is {tag!r}, but {name_of_kind(kind)} has the tag {own[1]!r}")
    return kind
