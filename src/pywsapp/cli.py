"""The command line: `pywsapp run module:app`, `pywsapp publish`, `pywsapp demo`, `pywsapp --version`."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Sequence
from functools import reduce
from typing import Any

from pywsapp._compiled import describe
from pywsapp._demo.chat import make_app
from pywsapp._version import __version__
from pywsapp.app import App
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError, TopicError
from pywsapp.publisher import Publisher

_KEY = "PYWSAPP_BROKER_KEY"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status.

    Args:
        arguments: instead of those of the process.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "demo":
            app = make_app(chosen.port, chosen.address, broker=chosen.broker)
            app.run(backend=chosen.backend, workers=chosen.workers)
        elif chosen.command == "publish":
            publish(chosen.broker, chosen.topic, chosen.message)
        else:
            app = find_app(chosen.app, factory=chosen.factory)
            if chosen.port is not None or chosen.address is not None:
                app.rebind(chosen.address, chosen.port)
            app.run(backend=chosen.backend, workers=chosen.workers)
    except (ConfigurationError, TopicError, BrokerUnavailable) as exc:
        parser.exit(1, f"pywsapp: {exc}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pywsapp", description="Real-time WebSocket applications in Python.")
    parser.add_argument(
        "--version",
        action="version",
        version=f"pywsapp {__version__} ({describe()}, Python {platform.python_version()})",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the App of a module")
    run.add_argument("app", metavar="MODULE:APP", help="where the App is: chat:app, or shop.web:make_app --factory")
    run.add_argument("--factory", action="store_true", help="it is a function that makes the App")
    run.add_argument("--port", type=int, help="the port, 0 for a free one (default: the App's)")
    run.add_argument("--address", help="the address to listen on (default: the App's)")

    demo = commands.add_parser("demo", help="run the chat server with its web page")
    demo.add_argument("--port", type=int, default=8080, help="the port, 0 for a free one (default: 8080)")
    demo.add_argument("--address", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    demo.add_argument("--broker", help="connects several servers: redis://..., amqp://..., nats://... (default: none)")
    for command in (run, demo):
        command.add_argument("--workers", type=_workers, default=1, help="processes that share the port (default: 1)")
        command.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio", help="(default: asyncio)")

    publish = commands.add_parser("publish", help="publish a message on a topic")
    publish.add_argument("broker", metavar="URL", help="of the broker: redis://..., amqp://..., nats://...")
    publish.add_argument("topic", help="the topic's name")
    publish.add_argument("message", help="the text, or - for what comes on the standard input")
    publish.epilog = f"The app's broker_key, if it has one, is taken from the environment variable {_KEY}."
    return parser


def publish(url: str, topic: str, message: str) -> None:
    """Publish a message, or what comes on the standard input for `-`.

    Raises:
        BrokerUnavailable: the broker has not taken it.
        TopicError: it is no name of a topic, or the message is too large.
    """
    with Publisher(url, key=os.environ.get(_KEY)) as publisher:
        publisher.publish(topic, sys.stdin.read() if message == "-" else message)


def _workers(text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number or auto, not {text!r}")
    return int(text)


def find_app(place: str, *, factory: bool = False) -> App:
    """Import an App; modules in the current directory are found.

    Args:
        place: "module:attribute".
        factory: whether to call what is there for the App.

    Raises:
        ConfigurationError: there is none; the text says what is there instead. What the module itself raises is not
            changed.
    """
    name, _, attribute = place.partition(":")
    if not name or not attribute:
        raise ConfigurationError(f"an App is named by its module and its name in there, chat:app, not {place!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise  # the module is there, and one that it imports is not
        hint = f"; give it as a module, {name[:-3]}:{attribute}" if name.endswith(".py") else ""
        raise ConfigurationError(f"there is no module {exc.name!r} in {os.getcwd()} or on sys.path{hint}") from exc
    try:
        found: Any = reduce(getattr, attribute.split("."), module)
    except AttributeError as exc:
        apps = [key for key, value in vars(module).items() if isinstance(value, App)]
        hint = f"; it has {', '.join(f'{name}:{key}' for key in apps)}" if apps else ""
        raise ConfigurationError(f"module {name!r} has no {attribute!r}{hint}") from exc
    if factory:
        if not callable(found):
            raise ConfigurationError(f"{place} is no function that makes an App, but {type(found).__name__}")
        found = found()
    if not isinstance(found, App):
        hint = "; is it a function that makes one? then --factory" if callable(found) and not factory else ""
        raise ConfigurationError(f"{place} is no App, but {type(found).__name__}{hint}")
    return found
