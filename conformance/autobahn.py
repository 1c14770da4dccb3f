#!/usr/bin/env python3
"""Run the Autobahn WebSocket conformance suite against any echo server or echo client.

    autobahn.py server --cmd 'python echo.py --port {port}' --quick
    autobahn.py server --url ws://127.0.0.1:8080/echo --cases '1.*,7.1.1'
    autobahn.py client --cmd 'python client.py {url} {agent}'
    autobahn.py show REPORT_DIR

server: the peer is an echo server: it returns every message unchanged.  Give the URL of a running one, or --cmd to
        have one started and stopped here ({port} is replaced by a free loopback port).
client: the peer is an echo client.  A fuzzing server is started, then the command is run once.  It has to ask
        {url}/getCaseCount for the number of cases N (one text message), then for every n in 1..N connect to
        {url}/runCase?case=n&agent={agent} and echo until closed, then to connect to {url}/updateReports?agent={agent}.

Exit status: 1 if a case ended differently from expected.json, 2 if the run could not be made.  A peer that bounds the
number of fragments of a message has to allow 65,537 for 9.3.* and 9.4.*, and messages of 16 MiB for all of 9.*.

Everything listens on and talks to loopback only.  Standard library only; see environment.py for what the suite needs.
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
from environment import Unable
from report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Everything but the slow sections 9 (limits), 12 and 13 (permessage-deflate, 1000 messages a case), and of the last
#: two a case for each mode (text and binary, whole and fragmented) and each negotiation.
QUICK = [
    *("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"),
    *("12.1.1", "12.1.11", "12.2.2", "12.3.3", "12.4.4", "12.5.5"),
    *("13.1.1", "13.2.2", "13.3.3", "13.4.4", "13.5.5", "13.6.6", "13.7.7"),
]

#: Run by the Python 2.7 of the environment: wstest, but on loopback only and with line-by-line output.
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
        agent: what the peer is called in the report.
        cases: patterns of case ids.
        outdir: where the report goes.
        seconds: how long it may take; cases that are left over count as missing.
    """

    agent: str
    cases: Sequence[str]
    outdir: Path
    seconds: float = 3600

    @property
    def log(self) -> Path:
        return self.outdir / "wstest.log"

    def against_server(self, command: str | None = None, url: str | None = None) -> Report:
        """Let the suite be the client of an echo server, which a command starts or which runs at a URL.

        Raises:
            Unable: the run could not be made.
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
        """Let the suite be the server of an echo client, which a command starts.

        Raises:
            Unable: the run could not be made.
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
        """Wait for a process, and show how far the suite is if anybody watches."""
        watched = sys.stderr.isatty()
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < self.seconds:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            begun = re.findall(r"Running test case ID ([\d.]+)", self.log.read_text(errors="replace"))
            if watched and begun:
                print(f"\r{begun[-1]:<8} {len(begun):4} cases", end="", file=sys.stderr)
        if watched:
            print(file=sys.stderr)
        if process.returncode is None:
            print(f"not done after {self.seconds:.0f} s", file=sys.stderr)
        elif process.returncode != 0:
            print(f"ended with status {process.returncode}, see {self.outdir}", file=sys.stderr)

    def _report(self, wall: float) -> Report:
        found = re.search(r"^Cases = (\[.*\])$", self.log.read_text(errors="replace"), re.MULTILINE)
        if not found:
            raise Unable(f"the suite did not start, see {self.log}")
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
            raise Unable(f"status {process.returncode} before anything listened:\n{log.read_text(errors='replace')}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise Unable(f"nothing listens on port {port}")


@contextlib.contextmanager
def started(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, and end that group afterwards."""
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
    """Make SIGTERM unwind the stack, so that what was started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="role", required=True)
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument("--cases", default="*", help="patterns, e.g. '1.*,7.1.1' (default: all 517)")
    running.add_argument("--quick", action="store_true", help="the quick subset")
    running.add_argument("--outdir", type=Path, help="where the report goes (default: a new temporary directory)")
    server = commands.add_parser("server", parents=[running], help="test an echo server")
    peer = server.add_mutually_exclusive_group(required=True)
    peer.add_argument("--url", help="of a running echo server")
    peer.add_argument("--cmd", help="start the server with this; {port} is replaced")
    client = commands.add_parser("client", parents=[running], help="test an echo client")
    client.add_argument("--cmd", required=True, help="{url} and {agent} are replaced")
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
        raise Unable("only loopback is tested")
    return run.against_server(command=args.cmd, url=args.url)


def main() -> int:
    args = arguments().parse_args()
    exit_on_sigterm()
    try:
        report = report_of(args)
    except Unable as exc:
        print(f"autobahn.py: {exc}", file=sys.stderr)
        return 2
    report.write()
    return 1 if report.unexpected() else 0


if __name__ == "__main__":
    sys.exit(main())
