"""Rules that allow topics by patterns, with the values of a connection in them: an `authorize` without code.

    TopicRules(subscribe=["public:*", "user:{user.id}:*"], publish=["room:{path.room}"])

A rule is the name of a topic. Each part between its colons is text, or `*`, or has one placeholder:

- `*` matches one part; as the last part it matches one or more, as in the patterns of `App.history` (see `names`).
- `{user}` is the key of the user, as `app.users` knows it. `{user.id}` and `{user[id]}` are an attribute or an item of
  the user; `{path.room}` is a parameter of the route's path, `{state.team}` is an attribute of `conn.state`. Names can
  follow each other: `{user.team.id}`.

Safety. Names are compared part by part, and the value of a placeholder is compared with one whole part. It is never
parsed as a pattern. So a value such as `*` or `7:admin` matches nothing: no part of a name has such characters. A value
that is missing, empty, or not a str, an int or a UUID matches nothing either. A part has one placeholder at most, since
`{a}-{b}` would be the same text for several pairs of values. Names that begin with an underscore are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pywsapp._topic_actions import TopicAction
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, TopicError
from pywsapp.topics.names import check_name
from pywsapp.topics.placeholders import COLON, Placeholder, parse_placeholder


class _Any:
    def matches(self, part: str, conn: Connection) -> bool:
        return True


class _Text(NamedTuple):
    text: str

    def matches(self, part: str, conn: Connection) -> bool:
        return part == self.text


class _Value(NamedTuple):
    placeholder: Placeholder

    def matches(self, part: str, conn: Connection) -> bool:
        text = self.placeholder.text_for(conn.request)
        return text is not None and part == text


_ANY = _Any()
_Part = _Value | _Any | _Text


class _Rule:
    """One rule of a `TopicRules`.

    Args:
        text: the rule.

    Raises:
        ConfigurationError: the rule is not valid.
    """

    __slots__ = ("_parts", "text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ConfigurationError(f"a rule is a str such as 'room:*', not {text!r}")
        self.text = text
        self._parts = [_parse_part(part, text) for part in COLON.split(text)]
        sample = ":".join("x" if part is _ANY else _sample(part) for part in self._parts)
        try:
            check_name(sample)
        except TopicError as exc:
            raise ConfigurationError(f"the rule {text!r} matches no topic: {exc}") from None

    def matches(self, conn: Connection, parts: Sequence[str]) -> bool:
        """Return whether the rule matches a name for a connection.

        Args:
            conn: has the values of the placeholders.
            parts: the parts of the name.
        """
        mine = self._parts
        if len(parts) != len(mine) and not (len(parts) > len(mine) and mine[-1] is _ANY):
            return False
        return all(one.matches(part, conn) for one, part in zip(mine, parts, strict=False))


def _sample(part: _Part) -> str:
    if isinstance(part, _Text):
        return part.text
    return part.placeholder.sample if isinstance(part, _Value) else "x"


def _parse_part(part: str, rule: str) -> _Part:
    if part == "*":
        return _ANY
    if "*" in part:
        raise ConfigurationError(f"the rule {rule!r} has a * beside other text; a * stands alone between colons")
    if "{" not in part and "}" not in part:
        return _Text(part)
    return _Value(parse_placeholder(part, f"the rule {rule!r}"))


class TopicRules:
    """Allows topics by rules; `App(authorize=TopicRules(...))`, also for a route or as `authorize` of a component.

    It returns True for a topic that a rule of the action matches. For other topics it returns None, so the next
    `authorize` decides. If there is none, requests of clients are refused, and actions of the server are allowed.

    Args:
        subscribe: the topics that a connection may subscribe to: a list of rules such as "public:*" or
            "user:{user.id}:*". A `*` matches one part of a name, and one or more parts at the end.
            `pywsapp.topics.rules` has all placeholders.
        publish: the topics that it may publish on.
        presence: the topics that it may be present in.
        history: the topics whose history it may read.

    Raises:
        ConfigurationError: a rule is not valid; the message says what to write.
    """

    def __init__(
        self,
        *,
        subscribe: Iterable[str] = (),
        publish: Iterable[str] = (),
        presence: Iterable[str] = (),
        history: Iterable[str] = (),
    ) -> None:
        self._rules: dict[str, tuple[_Rule, ...]] = {
            "subscribe": _rules(subscribe, "subscribe"),
            "publish": _rules(publish, "publish"),
            "presence": _rules(presence, "presence"),
            "history": _rules(history, "history"),
        }

    def __repr__(self) -> str:
        given = (f"{action}={[rule.text for rule in rules]!r}" for action, rules in self._rules.items() if rules)
        return f"TopicRules({', '.join(given)})"

    def __call__(self, conn: Connection, action: TopicAction, topic: str) -> bool | None:
        """Return True if a rule allows the action on a topic, else None."""
        parts = topic.split(":")
        return True if any(rule.matches(conn, parts) for rule in self._rules[action]) else None


def _rules(texts: Iterable[str], action: str) -> tuple[_Rule, ...]:
    if isinstance(texts, str):
        raise ConfigurationError(f"{action} is a list of rules: write {action}=[{texts!r}]")
    return tuple(_Rule(text) for text in texts)
