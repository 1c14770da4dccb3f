"""Objects for many connections: encoded once, and the form of each other codec, which is made once.

An object is any value except None that a codec has a form for: a dict, a list, a number, an object of a class.

A topic carries an object in one codec: to other processes, in a history, and to `on_broadcast`. That codec is JSON, or
the one of `App.topic_codec`. Each process makes from it what connections with another codec get. So a client gets the
same from whichever process has sent the object.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp._protocol.opcodes import TEXT
from pywsapp._protocol.prepared import PreparedMessage, Sendable, payload_of
from pywsapp.codecs.base import Codec
from pywsapp.codecs.cbor import CborCodec
from pywsapp.codecs.json_codec import JsonCodec
from pywsapp.codecs.kinds import is_protobuf
from pywsapp.codecs.message_pack import MessagePackCodec
from pywsapp.codecs.protobuf import ProtobufCodec
from pywsapp.exceptions import InvalidMessage

if TYPE_CHECKING:
    from pywsapp.connection import Connection

logger = logging.getLogger("pywsapp")

#: The codecs that need no class of an application.
_CODECS: dict[str, Callable[[], Codec]] = {"json": JsonCodec, "msgpack": MessagePackCodec, "cbor": CborCodec}


class ObjectText(str):
    """The text of an object, as distinct from text that a program sends as it is.

    Attributes:
        codec: the codec of the text; None for JSON.
    """

    codec: Codec | None = None


class ObjectBytes(bytes):
    """The bytes of an object in a binary codec, as distinct from bytes that a program sends as they are.

    Attributes:
        codec: the codec of the bytes.
    """

    codec: Codec | None = None


ObjectContent = ObjectText | ObjectBytes


class PreparedObject(PreparedMessage):
    """An object for many connections. Those without a codec get its JSON text.

    Args:
        content: the object in one codec.
        compress: as for `PreparedMessage`.

    Attributes:
        content: the object in one codec.
    """

    __slots__ = ("_compress", "_forms", "content")

    def __init__(self, content: ObjectContent, compress: bool | None = None) -> None:
        super().__init__(content, compress=compress)
        self.content = content
        self._compress = compress
        self._forms: dict[Codec | None, PreparedMessage] = {}

    def form_for(self, codec: Codec | None) -> PreparedMessage:
        """Return the message for connections with a codec, or without one; made once for each codec."""
        form = self._forms.get(codec)
        if form is None:
            form = self._forms[codec] = self._find_form(codec)
        return form

    def _find_form(self, codec: Codec | None) -> PreparedMessage:
        if _have_one_format(codec, self.content.codec):
            return self
        for other, form in self._forms.items():
            if _have_one_format(codec, other):
                return form
        return self._make_form(codec)

    def _make_form(self, codec: Codec | None) -> PreparedMessage:
        wanted = default_topic_codec() if codec is None else codec
        try:
            form = PreparedMessage(wanted.encode(object_in(self.content)), compress=self._compress)
            form.publication = self.publication
            return form
        except (TypeError, ValueError, OverflowError, RecursionError, InvalidMessage) as exc:
            is_json = isinstance(wanted, JsonCodec)
            if logger.isEnabledFor(logging.DEBUG):  # every message of a topic can come here
                logger.debug(
                    "the codec %r has no form for an object, so clients get %s: %s",
                    wanted.name,
                    "it as the topic carries it" if is_json else "JSON",
                    one_line(str(exc)),
                    extra=log_fields("message.no_form", codec=wanted.name, error=str(exc)),
                )
            return self if is_json else self.form_for(None)


def _have_one_format(one: Codec | None, other: Codec | None) -> bool:
    """Return whether the messages of two codecs are the same; None is JSON."""
    if one is None or isinstance(one, JsonCodec):
        return other is None or isinstance(other, JsonCodec)
    return type(one) is type(other) and one.name == other.name


@functools.cache
def default_topic_codec() -> JsonCodec:
    """Return the codec of topics without a codec of their own."""
    return JsonCodec()


def codec_named(name: str) -> Codec | None:
    """Return the codec that every process knows by its name, which comes from another program; None if there is none.

    Raises:
        ConfigurationError: its library is not installed.
    """
    kind = _CODECS.get(name)
    return None if kind is None else _make_codec(kind)


@functools.cache
def _make_codec(kind: Callable[[], Codec]) -> Codec:
    return kind()


def no_message() -> TypeError:
    """Return the exception for None, which a program sends by mistake, for instance if a function returned nothing."""
    return TypeError("None is no message: a message is a str or bytes, or an object such as a dict or a list")


def object_content(message: str | bytes, codec: Codec) -> ObjectContent:
    """Return what a codec made of an object, as the content of an envelope."""
    content = ObjectText(message) if isinstance(message, str) else ObjectBytes(message)
    if not isinstance(codec, JsonCodec):
        content.codec = codec
    return content


def is_object_content(content: object) -> TypeGuard[ObjectContent]:
    """Return whether the content of an envelope is an object."""
    return type(content) is ObjectText or type(content) is ObjectBytes


def object_in(content: ObjectContent) -> Any:
    """Return the object that a content holds, as plain values.

    Raises:
        InvalidMessage: the content cannot be read.
    """
    codec = default_topic_codec() if content.codec is None else content.codec
    try:
        return codec.decode(str(content) if isinstance(content, str) else bytes(content))
    except InvalidMessage:
        raise
    except Exception as exc:  # of a codec of the application; the delivery to other connections goes on
        raise InvalidMessage(f"the codec {codec.name!r} failed: {exc!r}") from exc


def prepared_object(value: Any, compress: bool | None = None, codec: Codec | None = None) -> PreparedObject:
    """Prepare an object for many connections.

    Args:
        value: the object.
        compress: as for `PreparedMessage`.
        codec: the codec in which the object travels to other processes; None for JSON.

    Raises:
        TypeError: it is no message, or has no form in the codec.
        ValueError: a part of it is out of the range of the codec.
    """
    if value is None:
        raise no_message()
    if codec is not None:
        return PreparedObject(object_content(codec.encode(value), codec), compress)
    try:
        return PreparedObject(ObjectText(default_topic_codec().encode(value)), compress)
    except TypeError:
        name = type(value).__name__
        if not is_protobuf(type(value)):
            raise
        raise TypeError(
            f"{name} is a class of Protocol Buffers, which other processes cannot read: "
            f"broadcast it on a topic of app.topic_codec(pattern, ProtobufCodec({name}))"
        ) from None


def prepared_here(value: Any, compress: bool | None = None, codec: Codec | None = None) -> PreparedObject:
    """Prepare an object for connections of this process only, so each object of a generated class can be sent.

    Args:
        value: the object.
        compress: as for `PreparedMessage`.
        codec: the codec that most of the connections have; None for JSON.

    Raises:
        TypeError: it is no message, or has no form in the codec.
        ValueError: a part of it is out of the range of the codec.
    """
    if is_protobuf(type(value)):
        codec = ProtobufCodec(type(value))
    elif isinstance(codec, ProtobufCodec):
        codec = None
    return prepared_object(value, compress, codec)


def prepared_content(content: Sendable) -> PreparedMessage:
    """Prepare the content of an envelope, which can be an object."""
    return PreparedObject(content) if is_object_content(content) else PreparedMessage(content)


def content_of(message: PreparedMessage) -> str | bytes:
    """Return the content of the envelope of a message."""
    if type(message) is PreparedObject:
        return message.content
    return message.payload.decode() if message.opcode == TEXT else message.payload


def content_to_publish(message: Any, codec: Codec | None = None) -> str | bytes:
    """Return the content of the envelope of a message that is sent on a broker only.

    Args:
        message: text, bytes or an object.
        codec: the codec of the topic's objects; None for JSON.

    Raises:
        TypeError: the message is neither text, bytes, nor an object with a form in the codec.
        ValueError: a part of the object is out of the range of the codec.
        ConfigurationError: the text has no UTF-8 form.
    """
    if not isinstance(message, (str, bytes, bytearray, memoryview)):
        return prepared_object(message, codec=codec).content
    opcode, payload = payload_of(message)
    return payload.decode() if opcode == TEXT else payload


def send_object_to_all(
    connections: list[Connection], message: PreparedObject, exclude: frozenset[Connection] = frozenset()
) -> None:
    """Send an object to connections, some excluded, each in its codec; see `connection.send_prepared_to_all`.

    Raises:
        ConfigurationError: the caller runs in another thread.
    """
    if connections:
        connections[0]._outbox.check_thread("broadcast")
    is_json = message.content.codec is None
    for conn in connections:
        if conn not in exclude:
            messages = conn._messages
            if messages is not None:
                conn._outbox.send_prepared(message.form_for(messages.codec))
            else:
                conn._outbox.send_prepared(message if is_json else message.form_for(None))
