#!/usr/bin/env python3
"""Run the Dockerfile and compose.yaml of docs/deploy with a real Docker engine, and count the messages of clients.

    containers.py                                 needs images of python:3.13-slim, redis:7-alpine, haproxy:2.8-alpine
    containers.py --compose docker-compose        Compose 1, which does not know the key `name` and `--wait`
    containers.py --files 20000                   fewer open files, where the engine cannot raise the limit

The program makes a project with `pywsapp new`, installs this checkout in its image, and replaces its app by that of the
fault runs. First one container must be healthy without rights, notice a stopped process, and end at SIGTERM. Then
clients publish numbered messages through HAProxy, or receive them from their last position on, while

1. a replica is killed, and Docker starts it again,
2. `restart` replaces all replicas at the same time,
3. the commands of docs/howto/deploy-with-docker.md replace them without a gap.

At the end everything is counted; see `fault_record`. The program needs Linux, root, Docker and Compose, and the ports
8080 and 8081.

Exit status: 1 if a message is missing, duplicated or out of order, if its loss was reported, or if a container does not
do what the page promises.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.projects import new_project

from benchmarks.fault_record import Counts
from benchmarks.fault_run import FaultRun
from benchmarks.fault_servers import Setup
from benchmarks.faults import arguments as fault_arguments
from benchmarks.upgrade import report
from pywsapp import ConnectionClosed, connect_sync

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "docs" / "deploy"
PAGE = ROOT / "docs" / "howto" / "deploy-with-docker.md"
#: Seconds that a container has to become healthy, or unhealthy: the health check has an interval of 10 s.
_HEALTH_SECONDS = 60.0
_APP = """\
from pywsapp import App

from chat.fault_app import HISTORY_SECONDS, HISTORY_SIZE, Commands, add_topics

app = App()
add_topics(app, HISTORY_SIZE, HISTORY_SECONDS)
app.route("/", Commands(app))
app.health()
"""


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command, and return what it writes without the last newline."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def replaced(text: str, old: str, new: str) -> str:
    """Return a text in which another one, which must be there once, is replaced."""
    assert text.count(old) == 1, old
    return text.replace(old, new)


def prepare(folder: Path, args: argparse.Namespace) -> Path:
    """Make the project with the files of docs/deploy and a wheel of this checkout, and return its directory."""
    project = new_project(folder, "chat")
    os.environ["PYWSAPP_PURE"] = "1"  # so the wheel is for any platform
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(project / "wheels"), str(ROOT))
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert (project / "Dockerfile").read_text() == dockerfile
    (project / "Dockerfile").write_text(replaced(dockerfile, " install ", " install --find-links wheels "))
    (project / "chat" / "fault_app.py").write_text((ROOT / "benchmarks" / "fault_app.py").read_text())
    (project / "chat" / "app.py").write_text(_APP)
    (project / ".env").write_text(f"PYWSAPP_BROKER_KEY={os.urandom(32).hex()}\n")
    compose = (DEPLOY / "compose.yaml").read_text().replace("nofile: 100000", f"nofile: {args.files}")
    if args.compose == "docker-compose":
        compose = replaced(compose, "\nname: chat\n", "\n")
    (project / "compose.yaml").write_text(compose)
    haproxy = (DEPLOY / "haproxy-compose.cfg").read_text()
    # HAProxy needs two files for each connection, and some more.
    (project / "haproxy-compose.cfg").write_text(replaced(haproxy, "maxconn 20000", f"maxconn {args.files // 3}"))
    return project


def until(condition: Callable[[], bool], seconds: float = _HEALTH_SECONDS) -> float:
    """Wait until a condition holds, and return how long it took.

    Raises:
        TimeoutError: it does not hold in time.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError
        time.sleep(0.1)
    return time.monotonic() - began


def health(container: str) -> str:
    return run("docker", "inspect", "--format", "{{.State.Health.Status}}", container)


def check_image() -> list[str]:
    """Run one container without rights, and return what happened as texts."""
    rights = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true")
    host = ("--publish", "8081:8080", "--env", "PYWSAPP_HTTP_HOST=localhost")
    container = run("docker", "run", "--detach", *rights, *host, "chat")
    try:
        found = [f"image of {int(run('docker', 'inspect', '--format', '{{.Size}}', 'chat')) / 1e6:.0f} MB"]
        seconds = until(lambda: health(container) == "healthy")
        found.append(f"healthy after {seconds:.1f} s, as {run('docker', 'exec', container, 'id')}")
        status = run("docker", "exec", container, "cat", "/proc/1/status")
        assert re.findall(r"^Cap(?:Prm|Eff|Bnd):\s*(\w+)$", status, re.MULTILINE) == ["0" * 16] * 3, status
        run("docker", "kill", "--signal", "STOP", container)
        found.append(f"unhealthy {until(lambda: health(container) == 'unhealthy'):.1f} s after SIGSTOP")
        run("docker", "kill", "--signal", "CONT", container)
        found.append(f"healthy {until(lambda: health(container) == 'healthy'):.1f} s after SIGCONT")
        found.append(stop_with_a_client(container))
    finally:
        run("docker", "rm", "--force", container)
    return found


def stop_with_a_client(container: str) -> str:
    """Stop a container while a client is connected, and return the close code, the exit status and the seconds."""
    with connect_sync("ws://localhost:8081/") as client:
        began = time.monotonic()
        stopping = subprocess.Popen(["docker", "stop", container], stdout=subprocess.DEVNULL)
        try:
            code = f"a message {client.receive()!r}"
        except ConnectionClosed as closed:
            code = f"{closed.code}"
    stopping.wait()
    seconds = time.monotonic() - began
    status = run("docker", "inspect", "--format", "{{.State.ExitCode}}", container)
    assert (code, status) == ("1012", "0"), (code, status)
    return f"closed with {code}, exit status {status} after {seconds:.1f} s"


class Cluster:
    """The containers of compose.yaml; it takes the place of a server in a `FaultRun`.

    Args:
        project: the directory with compose.yaml.
        compose: the command: `docker compose` or `docker-compose`.
    """

    url = "ws://localhost:8080/"

    def __init__(self, project: Path, compose: str) -> None:
        self._project = project
        self._compose = compose

    def compose(self, *words: str) -> str:
        return run(*self._compose.split(), *words, cwd=self._project)

    def shell(self, commands: str) -> None:
        """Run commands of the page."""
        if self._compose == "docker-compose":
            commands = commands.replace("docker compose", "docker-compose").replace(" --wait", "")
        # Compose 1 does not wait until the new replicas are healthy, so this program does.
        before, stop, after = commands.partition("docker stop")
        run("sh", "-e", "-c", f"{before}\necho $old > .old", cwd=self._project)
        self.until_healthy()
        run("sh", "-e", "-c", f"old=$(cat .old)\n{stop}{after}", cwd=self._project)

    def replicas(self) -> list[str]:
        return self.compose("ps", "--quiet", "chat").split()

    def until_healthy(self) -> float:
        return until(lambda: all(health(container) == "healthy" for container in self.replicas()))

    def stop(self) -> None:
        self.compose("down", "--volumes", "--timeout", "40")


class ContainerRun(FaultRun):
    """Clients of the containers, whose replicas are killed, restarted and replaced."""

    def __init__(self, args: argparse.Namespace, setup: Setup, cluster: Cluster) -> None:
        super().__init__(args, setup)
        self._cluster = cluster
        self.steps: list[str] = []

    async def disturb(self) -> None:
        """Kill, restart and replace replicas, in place of faults."""
        await anyio.sleep(self.args.pause)
        for step in (self._kill, self._restart, self._replace):
            began = time.monotonic()
            await anyio.to_thread.run_sync(step)
            seconds = time.monotonic() - began
            await anyio.sleep(self.args.pause)
            self.steps.append(f"{step.__name__[1:]}: {seconds:.1f} s, {self._count_accepted():,} messages so far")

    def _kill(self) -> None:
        container = self._cluster.replicas()[0]
        pid = run("docker", "inspect", "--format", "{{.State.Pid}}", container)
        os.kill(int(pid), signal.SIGKILL)  # `docker kill` would count as stopped by hand, and not be restarted
        until(lambda: run("docker", "inspect", "--format", "{{.RestartCount}}", container) == "1")
        self._cluster.until_healthy()

    def _restart(self) -> None:
        self._cluster.compose("restart", "chat")
        self._cluster.until_healthy()

    def _replace(self) -> None:
        old = self._cluster.replicas()
        commands = re.search(r"```sh\n(old=.*?)```", PAGE.read_text(), re.DOTALL)
        assert commands is not None
        self._cluster.shell(commands[1])
        new = self._cluster.replicas()
        assert len(new) == len(old) == 2, (old, new)
        assert not set(new) & set(old), (old, new)


def perform(args: argparse.Namespace) -> dict[str, Any]:
    """Run the containers and clients, and return the results."""
    with tempfile.TemporaryDirectory(prefix="pywsapp-containers-") as name:
        project = prepare(Path(name), args)
        run("docker", "build", "--quiet", "--tag", "chat", str(project))
        steps = check_image()
        cluster = Cluster(project, args.compose)
        try:
            cluster.compose("up", "--build", "--detach")
            steps.append(f"compose.yaml healthy after {cluster.until_healthy():.1f} s")
            setup = Setup(None, None, servers=[cluster])  # type: ignore[list-item]  # it has what a run uses
            clients = ContainerRun(args, setup, cluster)
            anyio.run(clients.run)  # stops the containers at the end
        except BaseException:
            cluster.stop()
            raise
    counts = [record.counts() for record in clients.records.values()]
    return {
        "counts": {key: sum(getattr(each, key) for each in counts) for key in asdict(Counts())},
        "connects": sum(client.connects for client in (*clients.listeners, *clients.publishers)),
        "steps": [*steps, *clients.steps],
        "problems": [example for record in clients.records.values() for example in record.examples],
    }


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--compose", choices=("docker compose", "docker-compose"), default="docker compose", help="default: %(default)s"
    )
    add("--files", type=int, default=100_000, help="the limit of open files of a container (default: %(default)s)")
    add("--pause", type=float, default=5.0, help="seconds between two steps (default: %(default)s)")
    add("--rate", type=float, default=120, help="messages/s of all publishers (default: %(default)s)")
    add("--listeners", type=int, default=24, help="default: %(default)s")
    add("--publishers", type=int, default=8, help="default: %(default)s")
    add("--topics", type=int, default=2, help="default: %(default)s")
    add("--seed", type=int, default=1, help="default: %(default)s")
    others = fault_arguments(["--broker", "redis"])
    return argparse.Namespace(**{**vars(others), **vars(parser.parse_args(words))})


def main() -> int:
    return report("real containers", perform(arguments()))


if __name__ == "__main__":
    sys.exit(main())
