"""Event streams as routes: a topic as `text/event-stream`, which `EventSource` of browsers reads.

`App.events` and `Router.events` add one. The server continues the response as a stream: see
`pywsapp._lifecycle.event_stream`, and `pywsapp._protocol.event_stream` for the format.

Origins. A browser sends the Origin field of an `EventSource` only if the page has another origin, and such a page can
read the stream only if the response names it. So a stream without the field is allowed, and a foreign origin is checked
by the rules of WebSocket routes. An allowed one is named in Access-Control-Allow-Origin, and may read the stream with
the cookies of the user. With `"*"` pages of every site may read it, without cookies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypedDict

from pywsapp._access import Authenticate
from pywsapp._authorize import Authorize
from pywsapp._lifecycle.event_stream import EventStreamResponse, Start, StreamSettings
from pywsapp._protocol.event_stream import BINARY, LOST, EventFormat
from pywsapp.brokers.base import Position
from pywsapp.component import MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse, TopicError
from pywsapp.http import Request
from pywsapp.middleware.origin import OriginCheck, parse_origin
from pywsapp.options import Options, check_not_server_wide
from pywsapp.topics.template import TopicTemplate

#: The name of the last message of a client, in browsers and in other programs.
_LAST_EVENT_ID, _SINCE = "last-event-id", "since"
#: A position that no history has: everything that a history keeps comes after it, and before that something is lost.
_UNKNOWN = str(Position("unknown", 1))
#: Names of events with a meaning of their own: ours, and those of `EventSource`.
_RESERVED = (LOST, BINARY, "open", "error")
#: Caches store nothing, proxies do not compress (which would delay events), and nginx does not buffer.
_HEADERS = (("Cache-Control", "no-store, no-transform"), ("X-Accel-Buffering", "no"))
_KEEPALIVE, _RETRY = 15, 3  # seconds
_MAX_SECONDS = 86400


class EventSettings(TypedDict, total=False):
    """The settings of a route of event streams; `App.events` says what they mean."""

    allowed_origins: Iterable[str] | None
    http_host: str | None
    event: str | None
    history: str | int
    keepalive: float
    retry: float
    options: Options | None
    authenticate: Authenticate | None
    authorize: Authorize | None


class EventStreams:
    """Answers requests for event streams of one route; a handler of plain HTTP.

    Args:
        path_parameters: the names of the parameters of the path.
        topic: the topic, a `TopicTemplate`.
        settings: the settings of the route.
        server_options: the options of the server.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    def __init__(
        self, path_parameters: Iterable[str], topic: str, settings: EventSettings, server_options: Options
    ) -> None:
        unknown = set(settings) - set(EventSettings.__annotations__)
        if unknown:
            raise TypeError(f"a route of event streams has no argument {min(unknown)!r}")
        self._topic = TopicTemplate(topic, path_parameters)
        self._origins = OriginCheck(MessageComponent(), settings.get("allowed_origins"))
        options = settings.get("options")
        if options is not None:
            check_not_server_wide(options, server_options, "a route")
        self._settings = StreamSettings(
            wire_format=EventFormat(_checked_event(settings.get("event"))),
            last=_last(settings.get("history", "all")),
            keepalive=_checked_seconds("keepalive", settings.get("keepalive", _KEEPALIVE)),
            retry=_checked_seconds("retry", settings.get("retry", _RETRY)),
            options=options,
        )

    def __call__(self, request: Request) -> EventStreamResponse:
        """Return the beginning of a stream.

        Raises:
            Refuse: the page may not read the stream (403), its path names no topic (400), it has no user (401), or its
                position is malformed (400).
        """
        self._origins.check(request)
        if request.app is None:
            raise ConfigurationError("an event stream needs an App: route the Router on one")
        topic = request.app.topic(self._topic.name_for(request))
        since = None if topic.history is None else _position(request)
        headers = (*_HEADERS, *self._origin_headers(request))
        return EventStreamResponse(Start(topic, since, self._topic.is_chosen), self._settings, headers)

    def _origin_headers(self, request: Request) -> list[tuple[str, str]]:
        """Return what lets the page of another origin read the response."""
        sent = request.headers.get("origin")
        if sent is None:
            return [("Vary", "Origin")]
        origin, allowed = parse_origin(sent), self._origins.allowed_origins
        if origin is None or ("*" in allowed and not allowed.match(origin)):
            return [("Vary", "Origin"), ("Access-Control-Allow-Origin", "*")]
        credentials = ("Access-Control-Allow-Credentials", "true")
        return [("Vary", "Origin"), ("Access-Control-Allow-Origin", sent), credentials]


def _position(request: Request) -> str | None:
    """Return the position of the last message that the client has; None if it has none.

    A browser repeats the URL when it connects again, so Last-Event-ID is newer than `since`. An id that is no position,
    for instance of the server that was here before, is one that no history has.
    """
    last_id = request.headers.get(_LAST_EVENT_ID)
    if last_id:
        try:
            return str(Position.parse(last_id))
        except TopicError:
            return _UNKNOWN
    since = request.query_params.get(_SINCE)
    try:
        return str(Position.parse(since)) if since else None
    except TopicError as exc:
        raise Refuse(400, body=str(exc)) from None


def _checked_event(event: Any) -> str | None:
    if event is None:
        return None
    if not isinstance(event, str) or not event or not event.isprintable():
        raise ConfigurationError(f"event is the name of the events, such as 'token', not {event!r}")
    if event in _RESERVED:
        raise ConfigurationError(f"event cannot be {event!r}, because such events mean something else")
    return event


def _checked_seconds(name: str, value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _MAX_SECONDS or math.isnan(value):
        raise ConfigurationError(f"{name} must be a number of seconds greater than 0, at most a day, not {value!r}")
    seconds: float = value
    return seconds


def _last(history: Any) -> int | None:
    if history == "all":
        return None
    if history == "new":
        return 0
    if type(history) is not int or history < 0:
        raise ConfigurationError(f'history is "all", "new" or a number of messages, not {history!r}')
    return history
