#!/usr/bin/env python3
"""Run the Autobahn WebSocket conformance suite against any echo server or echo client.

    autobahn.py server --cmd 'python echo.py --port {port}' --quick
    autobahn.py server --url ws://127.0.0.1:8080/echo --cases '1.*,7.1.1'
    autobahn.py client --cmd 'python client.py {url} {agent}'
    autobahn.py show REPORT_DIR

server: the peer is an echo server, which returns every message unchanged. Pass the URL of a running server, or a
        command that starts one ({port} is replaced by a free loopback port). A started server is stopped at the end.
client: the peer is an echo client. This program starts a fuzzing server, then runs the command once. The client must
        read the number of cases N from {url}/getCaseCount (one text message). For every n in 1..N it must connect to
        {url}/runCase?case=n&agent={agent} and echo until the connection is closed. At the end it must connect to
        {url}/updateReports?agent={agent}.

Exit status: 1 if an outcome differs from expected.json, 2 if the suite could not run. A peer that limits the number of
fragments of a message must allow 65,537 for 9.3.* and 9.4.*, and messages of 16 MiB for all of 9.*.

All sockets are on loopback. The program needs the standard library only, the suite needs what environment.py installs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import environment
from environment import CannotRun
from report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: All sections except the slow ones: 9 (limits), 12 and 13 (permessage-deflate, 1000 messages for each case). Of 12 and
#: 13 it has one case for each mode (text and binary, whole and fragmented) and each negotiation.
QUICK = [
    *("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"),
    *("12.1.1", "12.1.11", "12.2.2", "12.3.3", "12.4.4", "12.5.5"),
    *("13.1.1", "13.2.2", "13.3.3", "13.4.4", "13.5.5", "13.6.6", "13.7.7"),
]

#: A program for the Python 2.7 of the environment: wstest, but on loopback only and with line buffering.
LAUNCH = """
import os, sys
sys.stdout = os.fdopen(sys.stdout.fileno(), "w", 1)
from autobahntestsuite import choosereactor
from twisted.internet import reactor
listen = reactor.listenTCP
reactor.listenTCP = (lambda port, factory, backlog=512, interface="":
                     listen(port, factory, backlog, "127.0.0.1"))
from autobahntestsuite.wstest import run
sys.exit(run())
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the suite.

    Args:
        agent: the peer's name in the report.
        cases: patterns of case IDs.
        outdir: the directory for the report.
        seconds: the time limit; cases without a result count as missing.
    """

    agent: str
    cases: Sequence[str]
    outdir: Path
    seconds: float = 3600

    @property
    def log(self) -> Path:
        return self.outdir / "wstest.log"

    def against_server(self, command: str | None = None, url: str | None = None) -> Report:
        """Run the suite as the client of an echo server, which a command starts or which runs at a URL.

        Raises:
            CannotRun: the suite could not run.
        """
        with contextlib.ExitStack() as stack:
            if command is not None:
                port = free_port()
                url = f"ws://127.0.0.1:{port}/"
                peer = stack.enter_context(started(shlex.split(command.replace("{port}", str(port))), self._peer_log))
                wait_listening(port, peer, self._peer_log)
            servers = [{"agent": self.agent, "url": url}]
            with self._wstest("fuzzingclient", {"servers": servers}) as suite:
                began = time.monotonic()
                self._follow(suite)
        return self._report(time.monotonic() - began)

    def against_client(self, command: str) -> Report:
        """Run the suite as the server of an echo client, which a command starts.

        Raises:
            CannotRun: the suite could not run.
        """
        port = free_port()
        url = f"ws://127.0.0.1:{port}"
        with self._wstest("fuzzingserver", {"url": url}) as suite:
            wait_listening(port, suite, self.log)
            began = time.monotonic()
            argv = shlex.split(command.replace("{url}", url).replace("{agent}", self.agent))
            with started(argv, self._peer_log) as peer:
                self._follow(peer)
        return self._report(time.monotonic() - began)

    @property
    def _peer_log(self) -> Path:
        return self.outdir / "peer.log"

    @contextlib.contextmanager
    def _wstest(self, mode: str, role: dict[str, object]) -> Iterator[subprocess.Popen[bytes]]:
        python = environment.ensure()
        self.outdir.mkdir(parents=True, exist_ok=True)
        (self.outdir / "index.json").unlink(missing_ok=True)
        spec = {"outdir": str(self.outdir.resolve()), "cases": list(self.cases), "exclude-cases": [], **role}
        spec_file = self.outdir / "spec.json"
        spec_file.write_text(json.dumps({**spec, "exclude-agent-cases": {}}, indent=2))
        argv = [str(python), "-c", LAUNCH, "-m", mode, "-s", str(spec_file), "-u", "0"]
        with started(argv, self.log) as process:
            yield process

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for a process, and show the progress on a terminal."""
        on_terminal = sys.stderr.isatty()
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < self.seconds:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            running = re.findall(r"Running test case ID ([\d.]+)", self.log.read_text(errors="replace"))
            if on_terminal and running:
                print(f"\r{running[-1]:<8} {len(running):4} cases", end="", file=sys.stderr)
        if on_terminal:
            print(file=sys.stderr)
        if process.returncode is None:
            print(f"not done after {self.seconds:.0f} s", file=sys.stderr)
        elif process.returncode != 0:
            print(f"ended with status {process.returncode}, see {self.outdir}", file=sys.stderr)

    def _report(self, wall: float) -> Report:
        found = re.search(r"^Cases = (\[.*\])$", self.log.read_text(errors="replace"), re.MULTILINE)
        if not found:
            raise CannotRun(f"the suite did not start, see {self.log}")
        cases = re.findall(r"'([\d.]+)'", found.group(1))
        run = {"agent": self.agent, "suite": environment.SUITE, "cases": cases, "wall": round(wall, 1)}
        (self.outdir / "run.json").write_text(json.dumps(run))
        return Report.load(self.outdir)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if process.poll() is not None:
            raise CannotRun(f"status {process.returncode} before the port was open:\n{log.read_text(errors='replace')}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise CannotRun(f"nothing listens on port {port}")


@contextlib.contextmanager
def started(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in its own process group, and end the group afterwards."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                if process.poll() is None:
                    os.killpg(process.pid, sign)
                    process.wait(10)


def exit_on_sigterm() -> None:
    """Raise SystemExit at SIGTERM, so that started processes are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="role", required=True)
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument("--cases", default="*", help="patterns, e.g. '1.*,7.1.1' (default: all 517)")
    running.add_argument("--quick", action="store_true", help="the quick subset")
    running.add_argument(
        "--outdir", type=Path, help="the directory for the report (default: a new temporary directory)"
    )
    server = commands.add_parser("server", parents=[running], help="test an echo server")
    peer = server.add_mutually_exclusive_group(required=True)
    peer.add_argument("--url", help="the URL of a running echo server")
    peer.add_argument("--cmd", help="the command that starts the server; {port} is replaced")
    client = commands.add_parser("client", parents=[running], help="test an echo client")
    client.add_argument("--cmd", required=True, help="the command that runs the client; {url} and {agent} are replaced")
    show = commands.add_parser("show", help="print a report again")
    show.add_argument("outdir", type=Path)
    return parser


def report_of(args: argparse.Namespace) -> Report:
    if args.role == "show":
        return Report.load(args.outdir)
    outdir = args.outdir or Path(tempfile.mkdtemp(prefix="autobahn-"))
    run = Run(agent=args.role, cases=QUICK if args.quick else args.cases.split(","), outdir=outdir)
    print(f"report in   {outdir}")
    if args.role == "client":
        return run.against_client(args.cmd)
    if args.url is not None and urlsplit(args.url).hostname not in {"127.0.0.1", "localhost", "::1"}:
        raise CannotRun("the URL must be on loopback")
    return run.against_server(command=args.cmd, url=args.url)


def main() -> int:
    args = arguments().parse_args()
    exit_on_sigterm()
    try:
        report = report_of(args)
    except CannotRun as exc:
        print(f"autobahn.py: {exc}", file=sys.stderr)
        return 2
    report.write()
    return 1 if report.unexpected() else 0


if __name__ == "__main__":
    sys.exit(main())
