"""Reading a message: which function handles it, and with what.

A reader takes a message as it came, and returns a function and its last argument; the component and the connection are
the first two. It raises InvalidMessage. There is one reader for each class of components and codec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Union

from pywsapp._http_text import one_line
from pywsapp._messages.annotations import Accepted
from pywsapp._messages.procedures import Procedure, read_call
from pywsapp.codecs.base import Codec, Decoder
from pywsapp.codecs.kinds import TAG_FIELD, has_field, is_dict, is_pydantic, is_struct, tag_of
from pywsapp.exceptions import ConfigurationError, InvalidMessage

#: A handler `(component, conn, message)`.
Handler = Callable[[Any, Any, Any], Any]
Reader = Callable[[str | bytes], tuple[Handler, Any]]
#: Types by their tags, each with its handler.
Tagged = Mapping[str | int, tuple[Any, Handler]]
#: Characters of a tag of the peer that an error message repeats.
_MAX_SHOWN = 60


def single_reader(codec: Codec, accepted: Accepted, handler: Handler, label: str) -> Reader:
    """Return the reader of a component whose only handler is `on_message`.

    Raises:
        ConfigurationError: the codec cannot read the types.
    """
    decode = accepted_decoder(codec, accepted, label)
    return lambda message: (handler, decode(message))


def accepted_decoder(codec: Codec, accepted: Accepted, label: str) -> Decoder:
    """Return a function that reads messages of the accepted types.

    Raises:
        ConfigurationError: the codec cannot read the types.
    """
    decode = _decoder_of_types(codec, accepted.types)
    if not accepted.raw:
        return decode
    own = bytes if codec.is_binary else str
    if own in accepted.raw:
        raise ConfigurationError(
            f"{label}: the messages of the codec {codec.name!r} are {own.__name__}, so the other types leave none that "
            f"could come as {own.__name__}"
        )
    return lambda message: decode(message) if type(message) is own else message


def _decoder_of_types(codec: Codec, types: tuple[Any, ...]) -> Decoder:
    if is_distinguishable(types):
        return codec.decoder(Union[types])  # noqa: UP007 - a union of a tuple
    read = object_reader(codec, by_tag(types, _no_handler))
    return lambda message: read(message)[1]


def _no_handler(component: Any, conn: Any, message: Any) -> None:
    """Stand for a handler where messages are read only."""


def tagged_reader(codec: Codec, tagged: Tagged) -> Reader:
    """Return the reader of a component with handlers by tag.

    Raises:
        ConfigurationError: the codec cannot read one of the types.
    """
    if not all(is_struct(kind) and tag_of(kind) == (tag_field(tagged), tag) for tag, (kind, _) in tagged.items()):
        return object_reader(codec, tagged)
    handlers = dict(tagged.values())
    decode = codec.decoder(Union[tuple(handlers)])  # noqa: UP007 - a union of a tuple

    def read(message: str | bytes) -> tuple[Handler, Any]:
        value = decode(message)
        return handlers[type(value)], value

    return read


def object_reader(
    codec: Codec,
    tagged: Tagged,
    procedures: Mapping[str, Procedure] | None = None,
    other: tuple[Any, Handler] | None = None,
) -> Reader:
    """Return a reader that looks at an object before it converts it: at its tag, or at the name of a procedure.

    Args:
        codec: reads the object.
        tagged: the types by their tags.
        procedures: what clients can call.
        other: the type of objects that are no calls, with its handler, if they have no tags.

    Raises:
        ConfigurationError: the codec cannot read one of the types.
    """
    decode = codec.decoder(Any)
    field = tag_field(tagged)
    converters = {tag: (_converter(codec, kind, field), handler) for tag, (kind, handler) in tagged.items()}
    convert_other = None if other is None else (_converter(codec, other[0], field), other[1])
    calls = {name: procedure.reader(codec) for name, procedure in (procedures or {}).items()}

    def read(message: str | bytes) -> tuple[Handler, Any]:
        value = decode(message)
        if type(value) is not dict:
            raise InvalidMessage("an object was expected")
        if calls and "method" in value:
            return read_call(value, calls)
        if convert_other is not None:
            convert, handler = convert_other
            return handler, convert(value)
        tag = value.get(field)
        if tag is None:
            raise InvalidMessage(f"the object has no field `{one_line(field)}`", f"$.{field}")
        found = converters.get(tag) if isinstance(tag, (str, int)) else None
        if found is None:
            raise InvalidMessage(f"the value {tag!r:.{_MAX_SHOWN}} is not known", f"$.{field}")
        convert, handler = found
        return handler, convert(value)

    return read


def is_distinguishable(types: tuple[Any, ...]) -> bool:
    """Return whether one library distinguishes the types by itself."""
    return len(types) == 1 or all(map(is_struct, types)) or all(map(is_pydantic, types))


def by_tag(types: tuple[Any, ...], handler: Handler) -> Tagged:
    """Return types by their tags."""
    return {tag[1]: (kind, handler) for kind in types if (tag := tag_of(kind)) is not None}


def tag_field(tagged: Tagged) -> str:
    """Return the field that names the type of a message."""
    return next((tag[0] for kind, _ in tagged.values() if (tag := tag_of(kind)) is not None), TAG_FIELD)


def _converter(codec: Codec, kind: Any, field: str) -> Callable[[Any], Any]:
    convert = codec.converter(kind)
    if is_dict(kind) or tag_of(kind) is not None or has_field(kind, field):
        return convert

    def without_tag(value: dict[str, Any]) -> Any:
        value.pop(field, None)
        return convert(value)

    return without_tag
