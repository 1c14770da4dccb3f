"""The events by which processes act on the connections of one user: making and parsing them.

A program that can write to the broker can send any event. So an event is applied only if a process could have sent it.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, NamedTuple

from pywsapp._messages.objects import ObjectText
from pywsapp.brokers.envelope import EnvelopeError, has_utf8
from pywsapp.close_codes import check_close
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.names import RESERVED

#: The topic of the events of all users.
USERS_TOPIC = f"{RESERVED}users"
#: The bytes before the key of a user in an envelope with a message.
SEND_START = b'"event":{"users":"send","key":"'
#: Connections of a user in one process, in an event.
MAX_CONNECTIONS = 10**6
#: The largest number of a question.
MAX_NUMBER = 2**53

Event = dict[str, Any]


class Send(NamedTuple):
    """A message for all connections of a user."""

    key: str
    content: str | bytes


class Disconnect(NamedTuple):
    """All processes close the connections of a user with a code and a reason."""

    key: str
    code: int
    reason: str


class Reauthorize(NamedTuple):
    """The permissions of a user have changed: all processes ask `authorize` again for the user's connections."""

    key: str


class Ask(NamedTuple):
    """A question for the number of connections of a user; the answers have its number."""

    key: str
    number: int


class Answer(NamedTuple):
    """The number of connections in the process that answers a question of another process."""

    process: str
    number: int
    connections: int


Parsed = Send | Disconnect | Reauthorize | Ask | Answer


def event_of(parsed: Parsed) -> Event:
    """Return the event to send."""
    if isinstance(parsed, Send):
        content = parsed.content
        if type(content) is ObjectText:
            return {"users": "send", "key": parsed.key, "text": str(content), "object": True}
        if isinstance(content, str):
            return {"users": "send", "key": parsed.key, "text": content}
        return {"users": "send", "key": parsed.key, "base64": b64encode(content).decode()}
    if isinstance(parsed, Disconnect):
        return {"users": "disconnect", "key": parsed.key, "code": int(parsed.code), "reason": parsed.reason}
    if isinstance(parsed, Reauthorize):
        return {"users": "reauthorize", "key": parsed.key}
    if isinstance(parsed, Ask):
        return {"users": "ask", "key": parsed.key, "number": parsed.number}
    return {"users": "answer", "to": parsed.process, "number": parsed.number, "connections": parsed.connections}


def parse_event(event: Mapping[str, Any]) -> Parsed:
    """Parse an event.

    Raises:
        EnvelopeError: the event is not one that processes send.
    """
    kind = event.get("users")
    if kind == "send":
        return Send(_text(event, "key"), _content(event))
    if kind == "disconnect":
        code, reason = event.get("code"), event.get("reason")
        try:
            if type(code) is not int or not isinstance(reason, str):
                raise ConfigurationError("the code is not a number, or the reason is not text")
            check_close(code, reason)
        except ConfigurationError as exc:
            raise EnvelopeError(f"it does not close connections: {exc}") from None
        return Disconnect(_text(event, "key"), code, reason)
    if kind == "reauthorize":
        return Reauthorize(_text(event, "key"))
    if kind == "ask":
        return Ask(_text(event, "key"), _number(event, "number", MAX_NUMBER))
    if kind == "answer":
        number, connections = _number(event, "number", MAX_NUMBER), _number(event, "connections", MAX_CONNECTIONS)
        return Answer(_text(event, "to"), number, connections)
    raise EnvelopeError("its event is not one that processes send about users")


def _content(event: Mapping[str, Any]) -> str | bytes:
    if ("text" in event) == ("base64" in event):
        raise EnvelopeError("its event does not have exactly one of text and base64")
    if "text" in event:
        text = event["text"]
        if isinstance(text, str) and has_utf8(text):
            return ObjectText(text) if event.get("object") is True else text
    else:
        try:
            return b64decode(event["base64"], validate=True)
        except (TypeError, ValueError):
            pass
    raise EnvelopeError("the content of its event is invalid")


def _text(event: Mapping[str, Any], name: str) -> str:
    value = event.get(name)
    if not isinstance(value, str) or not value:
        raise EnvelopeError(f"the {name} of its event is not a text")
    return value


def _number(event: Mapping[str, Any], name: str, largest: int) -> int:
    value = event.get(name)
    if type(value) is not int or not 0 < value <= largest:
        raise EnvelopeError(f"the {name} of its event is not a number from 1 to {largest}")
    return value
