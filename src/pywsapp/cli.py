"""The command line: `pywsapp run`, `demo`, `publish`, `asyncapi` and `types`, and `pywsapp --version`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

from pywsapp._compiled import describe
from pywsapp._demo.chat import make_app
from pywsapp._extras import import_extra
from pywsapp._lifecycle.eager_check import check_eager_step
from pywsapp._process.importing import importing
from pywsapp._process.logging import LOG_FORMATS, configure_logging
from pywsapp._server.tls_settings import Tls
from pywsapp._version import __version__
from pywsapp.app import App
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError, TopicError
from pywsapp.options import TooMany
from pywsapp.publisher import Publisher

#: Has no option of the command line, because other users of the machine can read the command lines of its processes.
_BROKER_KEY = "PYWSAPP_BROKER_KEY"
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: the arguments, instead of those of the process.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "publish":
            publish(chosen.broker, chosen.topic, chosen.message, chosen.id)
        elif chosen.command in ("asyncapi", "types"):
            _write(chosen.output, _document(chosen))
        else:
            _complete(chosen, parser)
            if chosen.log_config is not None:
                configure_logging(chosen.log_config)  # before the program is imported, which can log
            if chosen.command == "demo":
                app = make_app(broker=chosen.broker)
                chosen.broker = None
            else:
                app = find_app(chosen.app, factory=chosen.factory)
            _run(app, chosen)
    except (ConfigurationError, TopicError, BrokerUnavailable) as exc:
        parser.exit(1, f"pywsapp: {exc}\n")
    return 0


def _run(app: App, chosen: argparse.Namespace) -> None:
    """Run an App with the options of the command line and the environment."""
    if chosen.log_level is not None:
        logging.getLogger("pywsapp").setLevel(chosen.log_level.upper())
    app.rebind(
        chosen.address,
        chosen.port,
        unix_path=chosen.unix_path,
        fd=chosen.fd,
        tls=_tls(chosen),
    )
    app.configure(
        http_host=chosen.http_host,
        broker=chosen.broker,
        broker_key=os.environ.get(_BROKER_KEY, "").splitlines() or None,
        trusted_proxies=chosen.trusted_proxies,
        access_log=chosen.access_log,
        health_port=chosen.health_port,
        session_store=chosen.session_store,
        **{name: getattr(chosen, name) for name in _LIMITS},
    )
    settings = {name: value for name in _RUN_OPTIONS if (value := getattr(chosen, name)) is not None}
    app.run(backend=chosen.backend or "asyncio", workers=1 if chosen.workers is None else chosen.workers, **settings)


def _tls(chosen: argparse.Namespace) -> Tls | None:
    """Return the TLS that the options select, or None."""
    if chosen.tls_self_signed and chosen.tls_cert is not None:
        raise ConfigurationError("choose one of --tls-self-signed and --tls-cert")
    if chosen.tls_key is not None and chosen.tls_cert is None:
        raise ConfigurationError("--tls-key needs --tls-cert, the certificate of the key")
    if chosen.tls_self_signed:
        return Tls.self_signed()
    return None if chosen.tls_cert is None else Tls(chosen.tls_cert, chosen.tls_key)


def publish(url: str, topic: str, message: str, message_id: str | None = None) -> None:
    """Publish a message, or the standard input for `-`.

    Raises:
        BrokerUnavailable: the broker did not accept the message.
        TopicError: the name of the topic is not valid, or the message is too large.
        ConfigurationError: the id is invalid.
    """
    with Publisher(url, key=os.environ.get(_BROKER_KEY, "").splitlines() or None) as publisher:
        publisher.publish(topic, sys.stdin.read() if message == "-" else message, message_id=message_id)


def _document(chosen: argparse.Namespace) -> str:
    """Return the document of an App: AsyncAPI as JSON, or types for TypeScript."""
    document = find_app(chosen.app, factory=chosen.factory).asyncapi(
        title=chosen.title, version=chosen.api_version, url=getattr(chosen, "url", None)
    )
    if chosen.command == "types":
        types: str = import_extra("pywsapp._schema.typescript", "msgspec").types_of(document)
        return types
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _write(file: str | None, text: str) -> None:
    """Write a text to a file, or to the standard output."""
    if file is None:
        sys.stdout.write(text)
        return
    try:
        with open(file, "w", encoding="utf-8", newline="\n") as opened:
            opened.write(text)
    except OSError as exc:
        raise ConfigurationError(f"cannot write {file}: {exc.strerror}") from None


def find_app(place: str, *, factory: bool = False) -> App:
    """Import an App; the current directory is searched first.

    Args:
        place: "module:attribute", or "module" for its attribute `app`.
        factory: whether the attribute is a function that makes the App.

    Raises:
        ConfigurationError: there is no App at this place, or the module runs it while it is imported. Exceptions of the
            module itself are raised unchanged.
    """
    name, _, attribute = place.partition(":")
    attribute = attribute or "app"
    if not name:
        raise ConfigurationError(f"an App is named by its module and its name there, such as chat:app, not {place!r}")
    directory, file = os.path.split(name)
    if directory:
        module = file.removesuffix(".py")
        raise ConfigurationError(
            f"{name!r} is a file: change to its directory and write its module, {module}:{attribute}"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with importing(name):
        found = _attribute(_import(name, attribute), name, attribute)
        if factory:
            if not callable(found):
                raise ConfigurationError(f"{place} is no function that makes an App, but {type(found).__name__}")
            found = found()
    if not isinstance(found, App):
        hint = "; if it is a function that makes one, add --factory" if callable(found) and not factory else ""
        raise ConfigurationError(f"{place} is no App, but {type(found).__name__}{hint}")
    return found


def _import(name: str, attribute: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise  # the module exists, and a module that it imports does not
        hint = f"; write it as a module, {name[:-3]}:{attribute}" if name.endswith(".py") else ""
        raise ConfigurationError(f"there is no module {exc.name!r} in {os.getcwd()} or on sys.path{hint}") from exc


def _attribute(module: Any, name: str, attribute: str) -> Any:
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError as exc:
        apps = [key for key, value in vars(module).items() if isinstance(value, App)]
        hint = f"; it has {', '.join(f'{name}:{key}' for key in apps)}" if apps else ""
        raise ConfigurationError(f"module {name!r} has no {attribute!r}{hint}") from exc


# -- options -----------------------------------------------------------------------------------------------------------


def _workers(text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number or auto, not {text!r}")
    return int(text)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def _too_many(text: str) -> TooMany:
    try:
        return TooMany(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be refuse or close_oldest, not {text!r}") from None


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _one_of(*allowed: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {text!r}")
        return text

    return convert


def _switch(text: str) -> bool:
    lowered = text.lower()
    if lowered not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise argparse.ArgumentTypeError(f"must be 1 or 0, not {text!r}")
    return lowered in ("1", "true", "yes", "on")


class _Option(NamedTuple):
    """An option of `run` and `demo`, which an environment variable can set too."""

    flags: tuple[str, ...]
    convert: Callable[[str], Any]
    metavar: str
    help: str

    @property
    def name(self) -> str:
        return self.flags[0].removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        return f"PYWSAPP_{self.name.upper()}"


_OPTIONS = (
    _Option(("--address", "--host"), str, "ADDRESS", "listen on this address; 0.0.0.0 or :: is all interfaces"),
    _Option(("--port",), _integer, "PORT", "listen on this port; 0 is a free one"),
    _Option(("--unix-path",), str, "PATH", "listen on a Unix socket instead"),
    _Option(("--fd",), _integer, "NUMBER", "listen on an inherited socket instead"),
    _Option(("--http-host",), _list, "NAME", "the name that clients write in the URL, several with commas, * for any"),
    _Option(("--tls-cert",), str, "FILE", "serve https and wss with this certificate, a PEM file"),
    _Option(("--tls-key",), str, "FILE", "the key of the certificate, if it is in another file"),
    _Option(("--trusted-proxies",), _list, "ADDRESSES", "addresses and networks of proxies to trust, with commas"),
    _Option(("--broker",), str, "URL", "the broker that connects servers: redis://..., amqp://..., nats://..."),
    _Option(("--workers",), _workers, "NUMBER", "processes that share the port, or auto (default: 1)"),
    _Option(("--backend",), _one_of("asyncio", "trio"), "NAME", "the event loop, asyncio or trio (default: asyncio)"),
    _Option(("--log-level",), _one_of(*_LOG_LEVELS), "LEVEL", f"{', '.join(_LOG_LEVELS)} (default: info)"),
    _Option(("--access-log",), _switch, "", "log a line for each request and each connection"),
    _Option(("--worker-timeout",), _number, "SECONDS", "replace a worker that hangs for so long; inf for no limit"),
    _Option(("--worker-max-age",), _number, "SECONDS", "replace a worker after this time"),
    _Option(("--worker-max-connections",), _integer, "NUMBER", "replace a worker that has accepted so many"),
    _Option(("--worker-max-memory",), _integer, "BYTES", "replace a worker that uses so much memory"),
    _Option(("--max-pending",), _integer, "NUMBER", "accept so many connections without a complete request"),
    _Option(("--health-port",), _integer, "PORT", "answer health checks on this port too"),
    _Option(("--max-connections",), _integer, "NUMBER", "refuse more connections than this, of all workers together"),
    _Option(("--max-connections-per-address",), _integer, "NUMBER", "refuse more connections of one IP address"),
    _Option(("--max-connections-per-user",), _integer, "NUMBER", "refuse more connections of one user"),
    _Option(("--max-handshakes-per-second",), _number, "NUMBER", "refuse more handshakes in a second, on average"),
    _Option(("--on-too-many",), _too_many, "CHOICE", "refuse, or close_oldest, above --max-connections-per-user"),
    _Option(("--max-connection-age",), _number, "SECONDS", "close a connection after this time, more or less"),
    _Option(("--idle-timeout",), _number, "SECONDS", "close a connection after so long without a message"),
    _Option(("--session-store",), str, "URL", "keep sessions there: redis://... or memcached://..."),
    _Option(("--log-format",), _one_of(*LOG_FORMATS), "FORMAT", "text or json, one object a line (default: text)"),
    _Option(("--log-config",), str, "FILE", "set up logging as this file says, for dictConfig: .json, .toml, .ini"),
    _Option(("--tls-self-signed",), _switch, "", "serve https and wss with a certificate for development"),
)
#: Options that are arguments of `App.run`.
_RUN_OPTIONS = ("worker_timeout", "worker_max_age", "worker_max_connections", "worker_max_memory", "log_format")
#: Options for limits, which are arguments of `App.configure`.
_LIMITS = (
    "max_pending",
    "max_connections",
    "max_connections_per_address",
    "max_connections_per_user",
    "max_handshakes_per_second",
    "on_too_many",
    "max_connection_age",
    "idle_timeout",
)
#: Options that name a socket; those of different groups exclude each other.
_SOCKETS = (("address", "port"), ("unix_path",), ("fd",))
_EPILOG = (
    "An option overrides the environment variable that is named with it, and the variable overrides the value in the "
    f"program. The variable {_BROKER_KEY} has the secret that signs the messages of the broker."
)


class _Version(argparse.Action):
    """Prints the version, the build, and what this interpreter lacks."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        lacks = "" if asyncio.run(check_eager_step()) else "; async handlers start in their own task"
        sys.stdout.write(f"pywsapp {__version__} ({describe()}, Python {platform.python_version()}{lacks})\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pywsapp", description="Real-time WebSocket applications in Python.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and the build, and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the App of a module", epilog=_EPILOG)
    _add_app(run)

    demo = commands.add_parser("demo", help="run a chat server with a web page", epilog=_EPILOG)
    for command in (run, demo):
        for option in _OPTIONS:
            text = f"{option.help} [{option.variable}]"
            if option.convert is _switch:
                command.add_argument(*option.flags, action=argparse.BooleanOptionalAction, help=text)
            else:
                command.add_argument(*option.flags, type=option.convert, metavar=option.metavar, help=text)

    publish = commands.add_parser("publish", help="publish a message on a topic")
    publish.add_argument("broker", metavar="URL", help="the URL of the broker: redis://..., amqp://..., nats://...")
    publish.add_argument("topic", help="the name of the topic")
    publish.add_argument("message", help="the text, or - for the standard input")
    publish.add_argument("--id", help="an id; a message that is published again with its id is delivered once")
    publish.epilog = f"The environment variable {_BROKER_KEY} has the broker_key of the App, if it has one."

    asyncapi = commands.add_parser("asyncapi", help="write the AsyncAPI document of an App, as JSON")
    types = commands.add_parser("types", help="write the types of the messages of an App for TypeScript")
    for command in (asyncapi, types):
        _add_app(command)
        command.add_argument("--output", metavar="FILE", help="write this file, instead of the standard output")
        command.add_argument("--title", default="WebSockets", help="the name of the application")
        command.add_argument("--api-version", metavar="VERSION", default="1.0.0", help="the version of its messages")
    asyncapi.add_argument("--url", help="the URL of the server: wss://chat.example")
    return parser


def _add_app(command: argparse.ArgumentParser) -> None:
    """Add the arguments that name an App."""
    command.add_argument(
        "app", metavar="MODULE[:APP]", help="the App: chat:app, chat (its app), or shop.web:make_app --factory"
    )
    command.add_argument("--factory", action="store_true", help="APP is a function that makes the App")


def _complete(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Set the options that are not on the command line from the environment."""
    given = [names for names in _SOCKETS if any(getattr(chosen, name) is not None for name in names)]
    excluded = {name for names in _SOCKETS for name in names if given and names not in given}
    for option in _OPTIONS:
        text = os.environ.get(option.variable)
        if not text or getattr(chosen, option.name) is not None or option.name in excluded:
            continue
        try:
            setattr(chosen, option.name, option.convert(text))
        except argparse.ArgumentTypeError as exc:
            parser.error(f"environment variable {option.variable}: {exc}")
