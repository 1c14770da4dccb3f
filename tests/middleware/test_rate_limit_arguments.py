"""The arguments of RateLimit, and its budgets for users, without a server."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest

from pywsapp._request_state import make_access
from pywsapp.component import Accept, EchoServer
from pywsapp.exceptions import ConfigurationError
from pywsapp.http import Request
from pywsapp.middleware.rate_limit import Exceeded, RateLimit
from pywsapp.routing.router import Router


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs messages_per_second, bytes_per_second or control_frames_per_second"),
        ({"bytes_per_second": 1, "messages_burst": 5}, "messages_burst needs messages_per_second"),
        ({"messages_per_second": 1, "bytes_burst": 5}, "bytes_burst needs bytes_per_second"),
        ({"messages_per_second": 1, "control_frames_burst": 5}, "control_frames_burst needs control_frames_per_second"),
        ({"control_frames_per_second": 0}, "control_frames_per_second must be a number greater than 0"),
        ({"messages_per_second": 0}, "messages_per_second must be a number greater than 0"),
        ({"messages_per_second": True}, "messages_per_second must be a number greater than 0"),
        ({"messages_per_second": "5"}, "messages_per_second must be a number greater than 0"),
        ({"bytes_per_second": float("nan")}, "bytes_per_second must be a number greater than 0"),
        ({"bytes_per_second": float("inf")}, "bytes_per_second must be a number greater than 0"),
        ({"messages_per_second": 1, "messages_burst": -1}, "messages_burst must be a number greater than 0"),
        ({"messages_per_second": 1, "messages_burst": 0.5}, "messages_burst must be 1 or more"),
        ({"messages_per_second": 1, "per": "route"}, 'per must be "connection", "address", "user" or a function'),
        ({"messages_per_second": 1, "when_exceeded": "drop"}, "when_exceeded must be an Exceeded"),
        ({"messages_per_second": 1, "max_idle": 0}, "max_idle must be a whole number from 1 on"),
        ({"messages_per_second": 1, "shared": "redis://localhost"}, "choose another per"),
        ({"messages_per_second": 1, "per": "user", "shared": "redis:/x"}, "invalid URL of a Redis server"),
    ],
)
def test_mistakes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RateLimit(EchoServer(), **arguments)
    assert message in str(caught.value)


def name_of(limit: RateLimit) -> str:
    return limit._limit.counts.name


def test_the_name_of_a_limit_is_that_of_what_it_limits() -> None:
    def tenant(conn: Any) -> str:
        return ""

    inner = RateLimit(EchoServer, messages_per_second=1)
    assert name_of(inner) == "EchoServer per connection"
    assert name_of(RateLimit(inner, messages_per_second=1, per="user")) == "EchoServer per user"
    assert name_of(RateLimit(Router(), messages_per_second=1, per="address")) == "Router per address"
    assert name_of(RateLimit(EchoServer(), messages_per_second=1, per=tenant)).startswith("EchoServer per test_the")
    assert name_of(RateLimit(EchoServer(), messages_per_second=1, name="mine")) == "mine"


class Client(SimpleNamespace):
    """What a RateLimit uses of a connection."""

    def __init__(self, user: Any = None, remote_address: str = "192.0.2.1") -> None:
        super().__init__(remote_address=remote_address, request=Request(user=user), sent=[])

    @property
    def user(self) -> Any:
        return self.request.user

    def send(self, message: str) -> None:
        self.sent.append(message)


def opened(limit: RateLimit, client: Any) -> Any:
    around = around_of(limit)
    around.on_open(client)
    return around


def around_of(limit: RateLimit) -> Any:
    """Return the copy of a RateLimit for a connection that is not open yet."""
    accept = limit.on_handshake(Request())
    assert isinstance(accept, Accept)
    return accept.component


def test_the_connections_of_a_user_share_a_limit_wherever_they_come_from() -> None:
    limit = RateLimit(EchoServer(), messages_per_second=0.01, messages_burst=3, per="user", when_exceeded=Exceeded.DROP)
    ana, again, bob = Client("ana", "192.0.2.1"), Client("ana", "192.0.2.2"), Client("bob", "192.0.2.1")
    arounds = [(opened(limit, client), client) for client in (ana, again, bob)]
    for _ in range(2):
        for around, client in arounds:
            around.on_message(client, "hello")
    assert [len(client.sent) for client in (ana, again, bob)] == [2, 1, 2]


def test_a_connection_without_a_user_counts_by_address_until_it_has_one() -> None:
    limit = RateLimit(EchoServer(), messages_per_second=0.01, messages_burst=1, per="user", when_exceeded=Exceeded.DROP)
    first, other = Client(None, "192.0.2.1"), Client(None, "192.0.2.1")
    around, other_around = opened(limit, first), opened(limit, other)
    around.on_message(first, "1")
    other_around.on_message(other, "1")
    make_access(first.request).user = "ana"
    around.on_message(first, "2")
    around.on_message(first, "3")
    assert (first.sent, other.sent) == (["1", "2"], [])
    around.on_close(first)
    around.on_close(first)
    other_around.on_close(other)
    assert not limit._limit.table._in_use


def test_a_user_without_a_name_fails_loudly_and_does_not_pass() -> None:
    limit = RateLimit(EchoServer(), messages_per_second=1, per="user")
    client = Client(object())
    around = around_of(limit)
    with pytest.raises(ConfigurationError, match=r"a object has no key: .* name it by App"):
        around.on_open(client)
    with pytest.raises(ConfigurationError, match=r"a object has no key: .* name it by App"):
        around.on_message(client, "hello")
    around.on_close(client)
    assert client.sent == []


def test_a_limit_works_without_an_app_that_counts_it() -> None:
    limit = RateLimit(EchoServer(), messages_per_second=0.01, messages_burst=1, when_exceeded=Exceeded.DROP)
    for app in (None, object()):
        accept = limit.on_handshake(Request(app=app))
        assert isinstance(accept, Accept)
        assert isinstance(accept.component, RateLimit)
    assert limit._limit.counts.stats == (0, 0, 0, 0)


def test_a_budget_lives_as_long_as_its_connection() -> None:
    limit = RateLimit(EchoServer(), messages_per_second=1e6, per="address")
    for number in range(100):
        client = Client(None, f"2001:db8:{number:x}::1")
        around = opened(limit, client)
        around.on_message(client, "hello")
        around.on_close(client)
    gc.collect()
    assert len(limit._limit.table) <= 100
    last = Client()
    opened(limit, last)
    assert len(limit._limit.table._in_use) == 1
