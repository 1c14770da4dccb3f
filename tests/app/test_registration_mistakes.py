"""Mistakes in what a program registers on an App: each one is found when it is registered, not when a client comes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pywsapp import App, ConfigurationError, Connection, EchoServer, MessageComponent


class NeedsDatabase(MessageComponent):
    def __init__(self, database: object) -> None:
        self.database = database


class NoComponent:
    def on_message(self, conn: Connection, message: Any) -> None: ...


class Yields(MessageComponent):
    def on_message(self, conn: Connection, message: Any) -> Iterator[Any]:
        yield message


class YieldsAsync(MessageComponent):
    async def on_open(self, conn: Connection) -> AsyncIterator[str]:
        yield "hello"


class OneSubprotocol(MessageComponent):
    subprotocols = "chat"


class BadSubprotocol(MessageComponent):
    subprotocols = ("two words",)


async def chat(conn: Any) -> None: ...


def from_connection(conn: Any) -> MessageComponent:
    return EchoServer()


def takes_one(argument: Any) -> None: ...


async def job(number: int) -> None: ...


MISTAKES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "async def as component": (
        lambda app: app.route("/", chat),
        "a route needs a MessageComponent, not the async def chat: "
        "write a class with the method on_message(self, conn, message)",
    ),
    "function of a connection as component": (
        lambda app: app.route("/", from_connection),
        "from_connection() cannot make a component: missing a required argument: 'conn'; "
        "a route takes a function without arguments that returns a MessageComponent",
    ),
    "class that needs arguments": (
        lambda app: app.route("/", NeedsDatabase),
        "NeedsDatabase() cannot make a component: missing a required argument: 'database'; "
        "route an instance, or a function that makes one",
    ),
    "base class forgotten": (
        lambda app: app.route("/", NoComponent()),
        "; write class NoComponent(MessageComponent):",
    ),
    "yield": (
        lambda app: app.route("/", Yields),
        "Yields.on_message has a yield, so it would never run: write conn.send(...) to send a message",
    ),
    "yield in an async def": (
        lambda app: app.route("/", YieldsAsync()),
        "YieldsAsync.on_open has a yield, so it would never run: write conn.send(...) to send a message",
    ),
    "subprotocols as str": (
        lambda app: app.route("/", OneSubprotocol()),
        "OneSubprotocol.subprotocols is a list: write ['chat']",
    ),
    "no subprotocol": (lambda app: app.route("/", BadSubprotocol), "'two words' cannot be a subprotocol"),
    "route without a path": (
        lambda app: app.route(EchoServer),
        'write @app.route("/chat") above EchoServer: the decorator needs an argument',
    ),
    "page without a path": (
        lambda app: app.http(takes_one),
        'write @app.http("/page") above takes_one: the decorator needs an argument',
    ),
    "page as str": (lambda app: app.http("/", "hello"), "the handler of '/' must be a function, not 'hello'"),
    "every without a time": (
        lambda app: app.every(takes_one),
        "write @app.every(5) above takes_one: the decorator needs an argument",
    ),
    "every with a text": (
        lambda app: app.every("5"),
        "every() takes a number of seconds greater than 0, not '5'",
    ),
    "timer with an argument": (
        lambda app: app.every(5)(takes_one),
        "takes_one must take (): missing a required argument: 'argument'",
    ),
    "listener without a pattern": (
        lambda app: app.on_broadcast(takes_one),
        'write @app.on_broadcast("room:*") above takes_one: the decorator needs an argument',
    ),
    "listener with one argument": (
        lambda app: app.on_broadcast("room:*")(takes_one),
        "takes_one must take (topic, message): too many positional arguments",
    ),
    "watcher without a pattern": (
        lambda app: app.on_presence(takes_one),
        'write @app.on_presence("room:*") above takes_one: the decorator needs an argument',
    ),
    "watcher with one argument": (
        lambda app: app.on_presence("room:*")(takes_one),
        "takes_one must take (topic, diff): too many positional arguments",
    ),
    "startup hook with an argument": (
        lambda app: app.on_startup(takes_one),
        "takes_one must take (): missing a required argument: 'argument'",
    ),
    "shutdown hook that is called": (
        lambda app: app.on_shutdown(job(1)),
        "job must be a function, not a coroutine: leave out the parentheses behind its name",
    ),
    "task that is called": (
        lambda app: app.start_soon(job(1)),
        "the task job must be a function, not a coroutine: leave out the parentheses behind its name",
    ),
    "task without its argument": (
        lambda app: app.start_soon(job),
        "the task job must take (): missing a required argument: 'number'",
    ),
    "port as host": (
        lambda app: type(app)(8080),
        "http_host, the first argument of App, is the name that clients write in the URL, not 8080: "
        "write App('localhost', 8080)",
    ),
    "options as dict": (lambda app: type(app)(options={}), "options must be an Options, not {}"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_when_it_is_registered(name: str) -> None:
    mistake, message = MISTAKES[name]
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        mistake(App("*", 0))


def test_functions_that_fit_are_accepted() -> None:
    app = App("*", 0)
    app.route("/one", lambda: EchoServer())
    app.route("/two", lambda database="chat.db": NeedsDatabase(database))
    app.every(5)(lambda *more: None)
    app.on_broadcast("room:*")(lambda topic, message, more=1: None)
    app.start_soon(job, 7)
    assert app.on_startup(print) is print
