"""The keys of users: what names a user in all processes."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from pywsapp import App, ConfigurationError, Request
from pywsapp._request_state import make_access
from pywsapp.auth import Authenticated
from pywsapp.auth.identity import set_user
from pywsapp.auth.user_keys import UserKeys, key_of_user

NUMBER = UUID("12345678123456781234567812345678")


class Role(str, Enum):
    ADMIN = "admin"


class Name(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another text"


@pytest.mark.parametrize(
    ("user", "key"),
    [
        ("ana", "ana"),
        (Role.ADMIN, "admin"),
        (Name("ben"), "ben"),
        (7, "7"),
        (0, "0"),
        (NUMBER, "12345678-1234-5678-1234-567812345678"),
        (SimpleNamespace(id=7), "7"),
        (SimpleNamespace(pk=7), "7"),
        (SimpleNamespace(id=None, pk="p"), "p"),
        (SimpleNamespace(id="i", pk="p"), "i"),
        (SimpleNamespace(id=NUMBER), str(NUMBER)),
        (SimpleNamespace(sub=None, id=7), "7"),
        ({"sub": "ana", "id": 7}, "ana"),
        ({"id": 7}, "7"),
        (Authenticated("Ana", subject="7"), "7"),
        (Authenticated(SimpleNamespace(id=3)), "3"),
        (Authenticated({"sub": "ana"}, subject="https://issuer ana"), "https://issuer ana"),
    ],
)
def test_the_key_of_a_user(user: Any, key: str) -> None:
    found = UserKeys().of_user(user)
    assert (type(found), found) == (str, key)
    access = make_access(Request())
    set_user(access, user if isinstance(user, Authenticated) else Authenticated(user))
    assert UserKeys().of_access(access) == key, "a connection of this user has the same key"


@pytest.mark.parametrize(
    "user",
    [
        None,
        True,
        "",
        1.5,
        b"ana",
        ("ana",),
        {"key": 7},
        {"id": 1.5},
        object(),
        SimpleNamespace(id=True),
        SimpleNamespace(pk=""),
    ],
)
def test_a_user_without_a_key(user: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"has no key: .* App\(user_key=\.\.\.\)"):
        UserKeys().of_user(user)


def test_limits_name_users_as_the_app_does() -> None:
    assert key_of_user(Request()) is None
    assert key_of_user(Request(user={"sub": "ana"})) == "ana"
    app = App(user_key=lambda user: user["name"])
    assert key_of_user(Request(user={"sub": "ana", "name": "Ana"}, app=app)) == "Ana"
    request = Request(user={"sub": "ana"}, app=App())
    make_access(request).subject = "https://issuer ana"
    assert key_of_user(request) == "https://issuer ana"


def test_a_function_decides_alone() -> None:
    keys = UserKeys(lambda user: user["sub"])
    assert keys.of_user({"sub": 7}) == "7"
    assert keys.of_user(Authenticated({"sub": "ana"}, subject="https://issuer ana")) == "ana"
    assert keys.of_user("ana") == "ana", "this is a key"
    for wrong in (None, "", 1.5, True):
        with pytest.raises(ConfigurationError, match=r"user_key of App returned .*, which is not a str"):
            keys.of_user({"sub": wrong})


@pytest.mark.parametrize("function", [lambda: "x", 7, lambda one, two: "x"], ids=["none", "number", "two"])
def test_a_function_that_takes_no_user(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="user_key of App"):
        App(user_key=function)
