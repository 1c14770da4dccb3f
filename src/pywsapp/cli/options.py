"""The options of `run` and `demo`, each with an environment variable, and what both do with them."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pywsapp.cli.env_file import load_env_file
from pywsapp.cli.numbers import bytes_number
from pywsapp.cli.parser import Parser

if TYPE_CHECKING:
    from pywsapp import App, Tls, TooMany

#: Has no option of the command line, because other users of the machine can read the command lines of its processes.
BROKER_KEY = "PYWSAPP_BROKER_KEY"
_PREFIX = "PYWSAPP_"
#: Set by the supervisor for its workers.
_WORKER = "PYWSAPP_WORKER"
#: Variables that no option has.
_OTHERS = (BROKER_KEY, _WORKER, "PYWSAPP_HEALTH", "PYWSAPP_LISTEN_FDS", "PYWSAPP_PURE", "PYWSAPP_TOKEN")
#: How similar the name of a variable is to the one that was meant: PROT and PORT have 0.75.
_SIMILAR = 0.75
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def workers(text: str) -> int:
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
    from pywsapp.options import TooMany

    try:
        return TooMany(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be refuse or close_oldest, not {text!r}") from None


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


class _OneOf:
    """One of some words, as the value of an option; `completion` reads them."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def __call__(self, text: str) -> str:
        if text not in self.choices:
            *others, last = self.choices
            raise argparse.ArgumentTypeError(f"must be {', '.join(others)} or {last}, not {text!r}")
        return text


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
        return _PREFIX + self.name.upper()


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
    _Option(("--workers",), workers, "NUMBER", "processes that share the port, or auto (default: 1)"),
    _Option(("--backend",), _OneOf("asyncio", "trio"), "NAME", "the event loop, asyncio or trio (default: asyncio)"),
    _Option(("--log-level",), _OneOf(*_LOG_LEVELS), "LEVEL", f"{', '.join(_LOG_LEVELS)} (default: info)"),
    _Option(("--access-log",), _switch, "", "log a line for each request and each connection"),
    _Option(("--worker-timeout",), _number, "SECONDS", "replace a worker that hangs for so long; inf for no limit"),
    _Option(("--worker-max-age",), _number, "SECONDS", "replace a worker after this time"),
    _Option(("--worker-max-connections",), _integer, "NUMBER", "replace a worker that has accepted so many"),
    _Option(("--worker-max-memory",), bytes_number, "BYTES", "replace a worker that uses more memory; also 500m"),
    _Option(("--max-pending",), _integer, "NUMBER", "accept so many connections without a complete request"),
    _Option(("--health-port",), _integer, "PORT", "answer health checks on this port too"),
    _Option(("--max-connections",), _integer, "NUMBER", "refuse more connections than this, of all workers together"),
    _Option(("--max-connections-per-address",), _integer, "NUMBER", "refuse more connections of one IP address"),
    _Option(("--max-connections-per-user",), _integer, "NUMBER", "refuse more connections of one user"),
    _Option(("--max-handshakes-per-second",), _number, "NUMBER", "refuse more handshakes in a second, on average"),
    _Option(("--on-too-many",), _too_many, "CHOICE", "refuse, or close_oldest, above --max-connections-per-user"),
    _Option(("--max-connection-age",), _number, "SECONDS", "close a connection after this time, more or less"),
    _Option(("--idle-timeout",), _number, "SECONDS", "close a connection after so long without a message"),
    _Option(("--max-message-size",), bytes_number, "BYTES", "close a connection after a larger message; also 64k, 1m"),
    _Option(("--ping-interval",), _number, "SECONDS", "send a ping after so long without a message"),
    _Option(("--drain-delay",), _number, "SECONDS", "at the end, fail health checks for so long and go on"),
    _Option(("--drain-timeout",), _number, "SECONDS", "at the end, wait so long for connections to close"),
    _Option(("--session-store",), str, "URL", "keep sessions there: redis://... or memcached://..."),
    _Option(("--log-format",), _OneOf("text", "json"), "FORMAT", "text (default), or json: one object a line"),
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
)
#: Options that are values of `Options`.
_OPTIONS_OF_APP = (
    "max_connection_age",
    "idle_timeout",
    "max_message_size",
    "ping_interval",
    "drain_delay",
    "drain_timeout",
)
#: Options that name a socket; those of different groups exclude each other.
_SOCKETS = (("address", "port"), ("unix_path",), ("fd",))
EPILOG = (
    "An option overrides the environment variable that is named with it, and the variable overrides the value in the "
    f"program. The variable {BROKER_KEY} has the secret that signs the messages of the broker."
)


def add_options(command: Parser) -> None:
    """Add the options to a command."""
    command.add_argument("--env-file", metavar="FILE", help="set the variables of a file with KEY=VALUE lines first")
    for option in _OPTIONS:
        text = f"{option.help} [{option.variable}]"
        if option.convert is _switch:
            command.add_argument(*option.flags, action=argparse.BooleanOptionalAction, help=text)
        else:
            command.add_argument(*option.flags, type=option.convert, metavar=option.metavar, help=text)


def complete(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Read the file with variables, set the options that are not on the command line, and set up logging."""
    from pywsapp._process.logging import configure_logging

    if chosen.env_file is not None:
        load_env_file(chosen.env_file)
    if _WORKER not in os.environ:
        _report_misspelt(parser.prog)
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
    _check_sockets(chosen, parser)
    if chosen.log_config is not None:
        configure_logging(chosen.log_config)  # before the program is imported, which can log


def _report_misspelt(program: str) -> None:
    """Name the variables that no option has and that look like one of them; there can be others, of the program."""
    known = {
        flag.removeprefix("--").replace("-", "_").upper(): option.variable
        for option in _OPTIONS
        for flag in option.flags
    }
    known |= {name.removeprefix(_PREFIX): name for name in _OTHERS}
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in known.values():
            for close in difflib.get_close_matches(name.removeprefix(_PREFIX), known, n=1, cutoff=_SIMILAR):
                sys.stderr.write(
                    f"{program}: the environment variable {name} has no effect; did you mean {known[close]}?\n"
                )


def _check_sockets(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    given = [
        [f"--{name.replace('_', '-')}" for name in names if getattr(chosen, name) is not None] for names in _SOCKETS
    ]
    options = [" with ".join(names) for names in given if names]
    if len(options) > 1:
        parser.error(f"choose one of {' and '.join(options)}")


def run_app(app: App, chosen: argparse.Namespace) -> None:
    """Run an App with the options of the command line and the environment; blocks."""
    import logging

    if chosen.log_level is not None:
        logging.getLogger("pywsapp").setLevel(chosen.log_level.upper())
    configure(app, chosen)
    settings = {name: value for name in _RUN_OPTIONS if (value := getattr(chosen, name)) is not None}
    app.run(backend=chosen.backend or "asyncio", workers=1 if chosen.workers is None else chosen.workers, **settings)


def configure(app: App, chosen: argparse.Namespace) -> None:
    """Replace the settings of an App by those of the options."""
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
        broker_key=broker_key(),
        trusted_proxies=chosen.trusted_proxies,
        access_log=chosen.access_log,
        health_port=chosen.health_port,
        session_store=chosen.session_store,
        options={name: value for name in _OPTIONS_OF_APP if (value := getattr(chosen, name)) is not None},
        **{name: getattr(chosen, name) for name in _LIMITS},
    )


def broker_key() -> list[str] | None:
    """Return the keys of the broker that the environment has."""
    return os.environ.get(BROKER_KEY, "").splitlines() or None


def _tls(chosen: argparse.Namespace) -> Tls | None:
    """Return the TLS that the options select, or None."""
    from pywsapp._server.tls_settings import Tls
    from pywsapp.exceptions import ConfigurationError

    if chosen.tls_self_signed and chosen.tls_cert is not None:
        raise ConfigurationError("choose one of --tls-self-signed and --tls-cert")
    if chosen.tls_key is not None and chosen.tls_cert is None:
        raise ConfigurationError("--tls-key needs --tls-cert, the certificate of the key")
    if chosen.tls_self_signed:
        return Tls.self_signed()
    return None if chosen.tls_cert is None else Tls(chosen.tls_cert, chosen.tls_key)


def names_socket(chosen: argparse.Namespace) -> bool:
    """Return whether an option or a variable says where to listen."""
    return any(getattr(chosen, name) is not None for names in _SOCKETS for name in names)
