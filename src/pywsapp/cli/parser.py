"""The parser of the command line: mistakes in one line, with the name that was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from pywsapp.cli.output import write

#: The type of the result of `add_subparsers`.
Commands = argparse._SubParsersAction
#: The message of argparse about a command that does not exist.
_NO_COMMAND = re.compile(r"argument COMMAND: invalid choice: '([^']*)'")


class Parser(argparse.ArgumentParser):
    """A parser of options that does not accept parts of their names; abbreviations change with each new option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride] # overloads of one method
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse the arguments; a mistake ends the process with status 2."""
        chosen, rest = self.parse_known_args(None if args is None else list(args), namespace)
        if rest:
            parser: Parser = chosen.parser
            parser.error(f"unrecognized arguments: {' '.join(rest)}{parser._hint_for(rest)}")
        return chosen

    def error(self, message: str) -> NoReturn:
        """Write one line, and end the process with status 2."""
        found = _NO_COMMAND.match(message)
        if found is not None:
            action = next(action for action in self._actions if isinstance(action, Commands))
            message = f"invalid choice: {found[1]!r}{did_you_mean(found[1], action.choices)}"
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def print_help(self, file: Any = None) -> None:
        """Write the help, by default to the standard output."""
        if file is None:
            write(self.format_help())
        else:
            super().print_help(file)

    def option_strings(self) -> list[str]:
        """Return the names of all options."""
        return [name for action in self._actions for name in action.option_strings]

    def _hint_for(self, arguments: Iterable[str]) -> str:
        options = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
        return did_you_mean(options[0], self.option_strings()) if options else ""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about a name that does not exist: the most similar one, if there is any."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class Version(argparse.Action):
    """Prints the version, the build, and what this interpreter lacks."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        """Print it, and end the process."""
        import asyncio
        import platform

        from pywsapp._compiled import describe
        from pywsapp._lifecycle.eager_check import check_eager_step
        from pywsapp._version import __version__

        lacks = "" if asyncio.run(check_eager_step()) else "; async handlers start in their own task"
        write(f"pywsapp {__version__} ({describe()}, Python {platform.python_version()}{lacks})\n")
        parser.exit()


def add_command(commands: Any, name: str, act: Callable[[argparse.Namespace], int | None], **settings: Any) -> Parser:
    """Add a command.

    Args:
        commands: what `add_subparsers` has returned.
        name: the name of the command.
        act: runs the command with its arguments, and returns the exit status; None is 0.
        settings: `help`, `epilog` and other arguments of the parser.
    """
    description = settings.pop("description", settings["help"])
    parser: Parser = commands.add_parser(name, description=f"{description[0].upper()}{description[1:]}.", **settings)
    parser.set_defaults(act=act, parser=parser)
    return parser
