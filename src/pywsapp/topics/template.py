"""The name of a topic that depends on a request: `stream:{id}`, `user:{user}:news`.

A template has the placeholders of `TopicRules`, and the parameters of its path by their names: `{id}` stands for
`{path.id}`. A value becomes text of one part of the name, as it is. A value with a colon, or with something else that
is not allowed in names, makes no name.
"""

from __future__ import annotations

from collections.abc import Iterable

from pywsapp.exceptions import ConfigurationError, InvalidCredentials, Refuse, TopicError
from pywsapp.http import Request
from pywsapp.topics.names import check_name
from pywsapp.topics.placeholders import COLON, Placeholder, parse_placeholder

_USER, _PATH = "user", "path"


class TopicTemplate:
    """Makes the name of a topic for each request.

    Args:
        text: the template.
        params: the names of the parameters of the path.

    Attributes:
        text: the template.
        is_chosen: whether the client chooses a part of the name, by the path.

    Raises:
        ConfigurationError: the template makes no name of a topic; the message says what to write.
    """

    __slots__ = ("_parts", "is_chosen", "text")

    def __init__(self, text: str, params: Iterable[str]) -> None:
        if not isinstance(text, str):
            raise ConfigurationError(f"topic is the name of a topic such as 'stream:{{id}}', not {text!r}")
        self.text = text
        names = frozenset(params)
        self._parts = [_parse(part, text, names) for part in COLON.split(text)]
        placeholders = [part for part in self._parts if isinstance(part, Placeholder)]
        self.is_chosen = any(one.source == _PATH for one in placeholders)
        try:
            check_name(":".join(part if isinstance(part, str) else part.sample for part in self._parts))
        except TopicError as exc:
            raise ConfigurationError(f"topic={text!r} makes no name of a topic: {exc}") from None

    def name_for(self, request: Request) -> str:
        """Return the name of the topic for a request.

        Raises:
            Refuse: 401 if the request has no user, or the user has no such value; 400 if a value of the path cannot be
                a part of a name.
        """
        name = ":".join(self._text(part, request) for part in self._parts)
        if name.count(":") != len(self._parts) - 1:
            raise Refuse(400, body="a value in the name of a topic has no colon")
        try:
            return check_name(name)
        except TopicError as exc:
            raise Refuse(400, body=str(exc)) from None

    def _text(self, part: str | Placeholder, request: Request) -> str:
        if isinstance(part, str):
            return part
        text = part.text_for(request)
        if text is not None:
            return text
        if part.source == _PATH:
            raise Refuse(400, body="this path names no topic")
        raise InvalidCredentials("the user has no such topic")


def _parse(part: str, template: str, params: frozenset[str]) -> str | Placeholder:
    if "{" not in part and "}" not in part:
        return part
    label = f"topic={template!r}"
    before, _, rest = part.partition("{")
    name, closing, after = rest.partition("}")
    if closing and name in params and not set("{}") & {*before, *after}:
        if name == _USER:
            raise ConfigurationError(f"{label}: the path has a parameter {{user}}; write {{path.user}} for it")
        return Placeholder(before, _PATH, (name,), after)
    return parse_placeholder(part, label)
