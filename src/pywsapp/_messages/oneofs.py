"""Handlers for the fields of a oneof of Protocol Buffers.

`on_message` names a generated class, which has a oneof; `@on("join")` handles the messages whose field `join` is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pywsapp._messages.annotations import accepted_by
from pywsapp._messages.reading import Handler, Reader
from pywsapp.codecs.base import Decoder
from pywsapp.codecs.kinds import is_protobuf, name_of_kind
from pywsapp.exceptions import ConfigurationError


class Oneof:
    """The oneof of a generated class, and the handlers of its fields.

    Args:
        kind: the generated class.
        handlers: the handlers by the names of the fields.
        label: names the component, for messages.

    Raises:
        ConfigurationError: a handler names no field of the oneof, or another class than that of its field.
    """

    def __init__(self, kind: Any, handlers: Mapping[str, Handler], label: str) -> None:
        self._handlers = handlers
        fields = {field.name: field for oneof in kind.DESCRIPTOR.oneofs for field in oneof.fields}
        for name, handler in handlers.items():
            if name not in fields:
                raise ConfigurationError(
                    f"{label}: @on({name!r}) names no field of a oneof of {name_of_kind(kind)}, which on_message takes"
                )
            _check_class(fields[name], handler, f"{label}.{getattr(handler, '__name__', name)}")
        names = {fields[name].containing_oneof.name for name in handlers}
        if len(names) > 1:
            raise ConfigurationError(f"{label}: the handlers with @on are for fields of one oneof, not of several")
        self._name = names.pop()

    def reader(self, decode: Decoder, default: Handler) -> Reader:
        """Return what reads a message, and chooses its handler.

        Args:
            decode: reads objects of the generated class.
            default: the handler of messages whose field has no handler, or that have no field of the oneof.
        """

        def read(message: str | bytes) -> tuple[Handler, Any]:
            value = decode(message)
            field = value.WhichOneof(self._name)
            handler = self._handlers.get(field)
            return (default, value) if handler is None else (handler, getattr(value, field))

        return read


def _check_class(field: Any, handler: Handler, label: str) -> None:
    if field.message_type is None:
        raise ConfigurationError(f"{label}: the field {field.name} is no message: handle it in on_message")
    types = accepted_by(handler, label).types
    if types and [is_protobuf(kind) and kind.DESCRIPTOR.full_name for kind in types] != [field.message_type.full_name]:
        raise ConfigurationError(
            f"{label}: the field {field.name} is of the class {field.message_type.name}, not "
            f"{' | '.join(map(name_of_kind, types))}"
        )
