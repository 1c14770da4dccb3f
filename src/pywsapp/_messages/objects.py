"""Objects for many connections: one JSON text, and the form of each other codec, which is made once.

A topic carries the JSON text of an object: to other processes, in a history, and to `on_broadcast`. Each process makes
from it what connections with another codec get. So a client gets the same from whichever process has sent the object.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from pywsapp._http_text import one_line
from pywsapp._protocol.opcodes import TEXT
from pywsapp._protocol.prepared import PreparedMessage, Sendable, payload_of
from pywsapp.codecs.base import Codec
from pywsapp.codecs.json_codec import JsonCodec
from pywsapp.exceptions import InvalidMessage

if TYPE_CHECKING:
    from pywsapp.connection import Connection

logger = logging.getLogger("pywsapp")

#: Values that are no objects: a program that broadcasts one has made a mistake.
_NO_OBJECTS = (type(None), bool, int, float, complex, list, tuple, set, frozenset)


class ObjectText(str):
    """The JSON text of an object, as distinct from text that a program sends as it is."""

    __slots__ = ()


class PreparedObject(PreparedMessage):
    """An object for many connections. Those without a codec get its JSON text.

    Args:
        text: its JSON text.
        compress: as for `PreparedMessage`.

    Attributes:
        text: its JSON text.
    """

    __slots__ = ("_compress", "_forms", "text")

    def __init__(self, text: ObjectText, compress: bool | None = None) -> None:
        super().__init__(text, compress=compress)
        self.text = text
        self._compress = compress
        self._forms: dict[Codec, PreparedMessage] = {}

    def form_for(self, codec: Codec) -> PreparedMessage:
        """Return the message for connections with a codec; made once for each codec."""
        form = self._forms.get(codec)
        if form is None:
            form = self._forms[codec] = self._make_form(codec)
        return form

    def _make_form(self, codec: Codec) -> PreparedMessage:
        if isinstance(codec, JsonCodec):
            return self
        try:
            return PreparedMessage(codec.encode(topic_codec().decode(str(self.text))), compress=self._compress)
        except (TypeError, ValueError, OverflowError, InvalidMessage) as exc:
            logger.debug(
                "the codec %r has no form for an object, so clients get JSON: %s", codec.name, one_line(str(exc))
            )
            return self


@functools.cache
def topic_codec() -> JsonCodec:
    """Return the codec of topics."""
    return JsonCodec()


def prepared_object(value: Any, compress: bool | None = None) -> PreparedObject:
    """Prepare an object for many connections.

    Raises:
        TypeError: it is no message, or has no form in JSON.
    """
    if isinstance(value, _NO_OBJECTS):
        raise TypeError(f"a message is a str or bytes, or an object such as a dict, not {type(value).__name__}")
    return PreparedObject(ObjectText(topic_codec().encode(value)), compress)


def prepared_content(content: Sendable) -> PreparedMessage:
    """Prepare the content of an envelope, which can be the text of an object."""
    return PreparedObject(content) if type(content) is ObjectText else PreparedMessage(content)


def content_of(message: PreparedMessage) -> str | bytes:
    """Return the content of the envelope of a message."""
    if type(message) is PreparedObject:
        return message.text
    return message.payload.decode() if message.opcode == TEXT else message.payload


def content_to_publish(message: Any) -> str | bytes:
    """Return the content of the envelope of a message that is sent on a broker only.

    Raises:
        TypeError: the message is neither text, bytes, nor an object with a form in JSON.
        ConfigurationError: the text has no UTF-8 form.
    """
    if not isinstance(message, (str, bytes, bytearray, memoryview)):
        return prepared_object(message).text
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
    for conn in connections:
        if conn not in exclude:
            messages = conn._messages
            conn._outbox.send_prepared(message if messages is None else message.form_for(messages.codec))
