"""The command line: `pywsapp COMMAND`, one module for each command.

`pywsapp --help` and the completion of shells import neither the server nor the App: a command imports what it needs
when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pywsapp.cli import bench, check, completion, connect, demo, documents, new, publish, routes, run, top
from pywsapp.cli.failures import ProgramFailed
from pywsapp.cli.output import OutputFailed, discard_output, open_streams, write
from pywsapp.cli.parser import Parser, Version

#: The commands in the order of the help.
_COMMANDS = (run, check, routes, connect, bench, top, new, demo, publish, documents, completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: the arguments, instead of those of the process.
    """
    open_streams()
    parser = make_parser()
    try:
        return _run(parser, arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head`: the reader has enough
        discard_output()
        return 1
    except OutputFailed as exc:
        discard_output()
        sys.stderr.write(f"pywsapp: {exc}\n")
        return 1
    except ProgramFailed as exc:
        sys.stderr.write(str(exc))
        return 1
    except Exception as exc:
        from pywsapp.exceptions import BrokerUnavailable, ConfigurationError, TopicError

        if not isinstance(exc, (ConfigurationError, TopicError, BrokerUnavailable)):
            raise
        parser.exit(1, f"pywsapp: {exc}\n")


def _run(parser: Parser, arguments: Sequence[str] | None) -> int:
    chosen = parser.parse_args(arguments)
    status: int = chosen.act(chosen) or 0
    write("")  # what is still in the buffer
    return status


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(prog="pywsapp", description="Real-time WebSocket applications in Python.")
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and the build, and exit")
    parser.set_defaults(whole=parser)  # for `completion`
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add_to(commands)
    return parser
