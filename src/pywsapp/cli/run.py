"""`pywsapp run`: run the App of a module."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from pywsapp.cli.app_argument import add_app, app_of
from pywsapp.cli.failures import ProgramFailed
from pywsapp.cli.options import EPILOG, add_options, complete, names_socket, run_app
from pywsapp.cli.parser import add_command

if TYPE_CHECKING:
    from pywsapp._process.file_watch import FileWatch
    from pywsapp.app import App


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    command = add_command(commands, "run", _act, help="run the App of a module", epilog=EPILOG)
    add_app(command)
    command.add_argument(
        "--reload", action="store_true", help="load the program again when a .py file changes, for development"
    )
    command.add_argument(
        "--reload-dir", action="append", metavar="DIRECTORY", help="watch this one, also several times (default: .)"
    )
    add_options(command)


def _act(chosen: argparse.Namespace) -> None:
    complete(chosen, chosen.parser)
    app = _reloading(chosen) if chosen.reload or chosen.reload_dir else app_of(chosen)
    if not names_socket(chosen):
        from pywsapp._process.service_manager import passed_sockets

        if fds := passed_sockets(is_worker=app.worker is not None):
            app._runner.change_listening().use_passed(fds)
    run_app(app, chosen)


def _reloading(chosen: argparse.Namespace) -> App:
    """Return the App, whose workers are replaced when files change; wait for a change if it cannot be loaded."""
    from pywsapp._process.file_watch import FileWatch
    from pywsapp._process.worker_context import worker_context
    from pywsapp.exceptions import ConfigurationError

    if worker_context() is not None:
        return app_of(chosen)
    # Python takes old bytecode for new if a source changes within a second and keeps its size.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    directories = chosen.reload_dir or ["."]
    for directory in directories:
        if not os.path.isdir(directory):
            raise ConfigurationError(f"there is no directory {directory} to watch")
    watch = FileWatch(directories)
    if chosen.worker_timeout is None:
        chosen.worker_timeout = float("inf")  # a debugger can hold the program for longer
    try:
        app = app_of(chosen)
    except (ProgramFailed, ConfigurationError) as exc:
        _start_after_change(watch, exc)
        raise
    app._runner.watch = watch
    return app


def _start_after_change(watch: FileWatch, exc: Exception) -> None:
    """Wait for a change, and replace this process by a new one."""
    import anyio

    text = str(exc) if isinstance(exc, ProgramFailed) else f"pywsapp: {exc}\n"
    sys.stderr.write(f"{text}pywsapp: waiting for a change of the program\n")
    try:
        anyio.run(watch.wait)
    except KeyboardInterrupt:
        sys.exit(130)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
