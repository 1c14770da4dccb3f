"""`TopicRules`: what its patterns match, that no value of a user widens a rule, and which rules are mistakes."""

from __future__ import annotations

import math
import re
from enum import Enum
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.serving import Recorder

from pywsapp import App, ConfigurationError, Connection, Request, TopicError, TopicRules
from pywsapp.auth import Authenticated
from pywsapp.auth.identity import refresh
from pywsapp.topics.names import check_name


def connection(user: Any = None, path_params: dict[str, Any] | None = None, **state: Any) -> Connection:
    """Return a connection of a user."""
    request = Request(path_params=path_params)
    if user is not None:
        refresh(request, user)
    unused: Any = None
    conn = Connection(request, None, unused, unused)
    vars(conn.state).update(state)
    return conn


def allows(rule: str, name: str, conn: Connection | None = None) -> bool:
    """Return whether a single rule allows a topic."""
    found = TopicRules(subscribe=[rule])(conn or connection(), "subscribe", check_name(name))
    assert found is True or found is None
    return found is True


class User(SimpleNamespace):
    """A user with attributes."""


class Level(str, Enum):
    STAFF = "staff"


@pytest.mark.parametrize(
    ("rule", "matched", "others"),
    [
        ("news", ["news"], ["new", "news:today", "News"]),
        ("room:*", ["room:1", "room:1:typing"], ["room", "rooms:1", "my:room:1"]),
        ("*", ["a", "a:b:c"], []),
        ("room:*:typing", ["room:1:typing"], ["room:1", "room:1:2:typing", "room:typing", "room:1:typing:x"]),
        ("*:*", ["a:b", "a:b:c"], ["a"]),
        ("*:news", ["a:news"], ["news", "a:b:news"]),
    ],
)
def test_a_star_is_one_part_and_at_the_end_one_or_more(rule: str, matched: list[str], others: list[str]) -> None:
    assert [name for name in [*matched, *others] if allows(rule, name)] == matched


def test_each_action_has_rules_of_its_own() -> None:
    rules = TopicRules(subscribe=["a"], publish=["b"], presence=["c"], history=("d", "e"))
    conn = connection()
    actions: list[Any] = ["subscribe", "publish", "presence", "history"]
    allowed = [(action, name) for action in actions for name in "abcde" if rules(conn, action, name)]
    assert allowed == [("subscribe", "a"), ("publish", "b"), ("presence", "c"), ("history", "d"), ("history", "e")]
    assert repr(rules) == "TopicRules(subscribe=['a'], publish=['b'], presence=['c'], history=['d', 'e'])"
    assert repr(TopicRules()) == "TopicRules()"


@pytest.mark.parametrize(
    ("rule", "name", "user"),
    [
        ("user:{user.id}:*", "user:7:inbox", User(id=7)),
        ("user:{user[id]}:*", "user:7:inbox", {"id": "7"}),
        ("user:{user.id}:*", "user:7:inbox", {"id": 7}),
        ("user:{user}", "user:ana", "ana"),
        ("user:{user}", "user:7", User(pk=7)),
        ("user:{user}", "user:s-1", Authenticated({"id": 1}, subject="s-1")),
        ("u{user.id}x", "u7x", User(id=7)),
        ("{user.team.id}:{user.id}", "3:7", User(team=User(id=3), id=7)),
        ("{user[a][b].c}", "x", {"a": {"b": User(c="x")}}),
        ("{user[cognito:username]}:*", "ana:x", {"cognito:username": "ana"}),
        ("{user.id}", "0b0e3c1e-4c4b-4d37-9f0a-1f1d7f6f0f10", User(id=UUID("0b0e3c1e-4c4b-4d37-9f0a-1f1d7f6f0f10"))),
        ("{user.level}", "staff", User(level=Level.STAFF)),
        ("{user.id}", "-1", User(id=-1)),
    ],
    ids=map(str, range(13)),
)
def test_values_of_the_user(rule: str, name: str, user: Any) -> None:
    assert allows(rule, name, connection(user))
    assert not allows(rule, f"{name}x" if ":*" not in rule else f"x{name}", connection(user))
    assert not allows(rule, name)  # without a user
    assert not allows(rule, name, connection({"sub": "another"}))


def test_values_of_the_path_and_the_state() -> None:
    conn = connection(path_params={"room": "tea", "number": 7}, team="red")
    assert allows("room:{path.room}", "room:tea", conn)
    assert allows("room:{path[number]}", "room:7", conn)
    assert allows("team:{state.team}", "team:red", conn)
    assert not allows("team:{state.other}", "team:red", conn)
    assert not allows("room:{path.room}", "room:tea")


def test_the_key_of_a_user_is_that_of_the_app() -> None:
    conn = connection({"name": "ana"})
    conn.request.app = App(user_key=lambda user: user["name"])
    assert allows("user:{user}", "user:ana", conn)
    conn.request.app = None
    with pytest.raises(ConfigurationError, match="a dict has no key"):
        allows("user:{user}", "user:ana", conn)
    assert not allows("user:{user}", "other:ana", conn)


# -- values that a client controls -------------------------------------------------------------------------------------

HOSTILE = ["*", "**", "7:*", "7:admin", ":", "", " ", "{user.id}", "{", "}", ".*", "[a-z]*", "#", ">", "$pywsapp:users"]
NO_TEXT = [None, True, False, 7.0, math.nan, b"7", [], ["7"], {}, {"id": "7"}, (7,), object(), lambda: "7"]
parts = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=":*"), min_size=1, max_size=5)
names = st.lists(st.sampled_from(["user", "7", "8", "admin", "inbox", "room"]) | parts, min_size=1, max_size=4)
values = st.sampled_from(HOSTILE) | st.text(max_size=12) | st.integers() | st.uuids() | st.sampled_from(["7", "8"])


def is_name(name: str) -> bool:
    try:
        check_name(name)
    except TopicError:
        return False
    return True


@given(values, names.map(":".join).filter(is_name))
@example("*", "user:7:inbox")
@example("7:admin", "user:7:admin:inbox")
@example("", "user:inbox")
def test_a_rule_allows_exactly_the_topics_with_the_value_as_one_part(value: Any, name: str) -> None:
    pieces = name.split(":")
    expected = len(pieces) >= 3 and pieces[0] == "user" and pieces[1] == str(value) != ""
    for user in (User(id=value), {"id": value}):
        assert allows("user:{user.id}:*", name, connection(user)) == expected
    conn = connection(path_params={"id": value}, id=value)
    assert allows("user:{path.id}:*", name, conn) == expected
    assert allows("user:{state.id}:*", name, conn) == expected


@given(values, values, names.map(":".join).filter(is_name))
@example("a", "a:b", "user:a:b:c")
@example("7", "7*", "user:7:c")
def test_no_topic_is_of_two_users(one: Any, two: Any, name: str) -> None:
    """Users with different ids have no topic in common, whatever the ids are."""
    if str(one) == str(two):
        return
    for rule in ("user:{user.id}:*", "user:{user.id}", "u-{user.id}-x", "{user.id}:*"):
        both = [allows(rule, name, connection(User(id=value))) for value in (one, two)]
        assert both != [True, True]


@pytest.mark.parametrize("number", range(len(NO_TEXT)))
def test_a_value_that_is_no_text_matches_nothing(number: int) -> None:
    value = NO_TEXT[number]
    for name in ("user:7:x", "user:None:x", "user:True:x", "user:7.0:x", f"user:{str(value).replace(' ', '')}:x"):
        if is_name(name):
            assert not allows("user:{user.id}:*", name, connection(User(id=value)))
            assert not allows("user:u{user.id}:*", name.replace("user:", "user:u"), connection(User(id=value)))


def test_an_empty_value_does_not_leave_the_text_around_it() -> None:
    assert not allows("u{user.id}:*", "u:x", connection(User(id="")))
    assert not allows("u{user.id}", "u", connection(User(id="")))


class Lying(str):
    """A str that claims to be equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "8"

    __format__ = None  # type: ignore[assignment]


def test_a_subclass_of_str_is_its_text() -> None:
    conn = connection(User(id=Lying("7")))
    assert [name for name in ("user:7:x", "user:8:x") if allows("user:{user.id}:*", name, conn)] == ["user:7:x"]


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("", "matches no topic"),
        ("a:", "no part between its colons may be empty"),
        ("a b", "whitespace"),
        ("#", "may be empty, # or >"),
        ("x" * 201, "1 to 200 bytes"),
        ("$pywsapp:*", "are reserved"),
        (7, "a rule is a str such as 'room:\\*', not 7"),
        ("room*", "a \\* stands alone between colons"),
        ("room:a*b", "a \\* stands alone between colons"),
        ("room:*{user.id}", "a \\* stands alone between colons"),
        ("user:{user.id", "has an invalid part"),
        ("user:user.id}", "has an invalid part"),
        ("user:{}", "has an invalid part"),
        ("user:{0}", "has an invalid part"),
        ("user:{conn.user}", "has an invalid part"),
        ("user:{request.path}", "has an invalid part"),
        ("user:{user.id}{user.name}", "has an invalid part"),
        ("user:{user.id}-{user.name}", "has an invalid part"),
        ("user:{{user.id}}", "has an invalid part"),
        ("user:{user.id!r}", "has an invalid part"),
        ("user:{user.id:>9}", "has an invalid part"),
        ("user:{user.id()}", "has an invalid part"),
        ("user:{user.}", "has an invalid part"),
        ("user:{user[]}", "has an invalid part"),
        ("user:{user[a}", "has an invalid part"),
        ("user:{user id}", "has an invalid part"),
        ("user:{user.__class__}", "begins with an underscore"),
        ("user:{user._secret}", "begins with an underscore"),
        ("user:{user[_secret]}", "begins with an underscore"),
        ("user:{user.id.__init__.__globals__}", "begins with an underscore"),
        ("user:{path}", r"has no name in '{path}': write {path\.name}"),
        ("user:{state}", r"write {state\.name}"),
    ],
    ids=map(str, range(32)),
)
def test_invalid_rules_say_what_is_wrong(rule: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        TopicRules(publish=["fine", rule])


@given(st.text(st.sampled_from("ab:*{}.[]_ user")))
@example("{user.a}:*")
def test_any_text_is_a_rule_or_a_mistake(text: str) -> None:
    try:
        rules = TopicRules(subscribe=[text])
    except ConfigurationError:
        return
    assert re.search(r"\{[^}]*(\._|\[_)", text) is None
    rules(connection(User(a="a")), "subscribe", "a:b")


def test_mistakes_in_the_call() -> None:
    with pytest.raises(ConfigurationError, match=r"publish is a list of rules: write publish=\['room:\*'\]"):
        TopicRules(publish="room:*")
    wrong: Any = TopicRules
    for arguments in ({"read": ["a"]}, {"Publish": ["a"]}):
        with pytest.raises(TypeError, match="unexpected keyword"):
            wrong(**arguments)
    with pytest.raises(TypeError):
        wrong({"subscribe": ["a"]})
    with pytest.raises(ConfigurationError, match=r"not the class TopicRules: write TopicRules\(\.\.\.\)"):
        App(authorize=wrong)


def test_a_component_and_a_route_can_have_rules() -> None:
    class Rooms(Recorder):
        authorize = TopicRules(subscribe=["room:*"])

    App().route("/rooms/{room}", Rooms(), authorize=TopicRules(publish=["room:{path.room}"]))
