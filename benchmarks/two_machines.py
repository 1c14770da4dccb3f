#!/usr/bin/env python3
"""Run the chat of docs/tutorial/two-machines.md on hosts of its own, cut their cables, and count its messages.

    two_machines.py                 with four users
    two_machines.py --clients 8     with more users

The hosts are network namespaces at the addresses of the tutorial, and a switch joins them: HAProxy with the file
docs/deploy/haproxy.cfg, two servers, a Redis with a password, and one host for all clients. The clients log in, write
to a room, and follow it and its users. Meanwhile the cables of a server, of Redis and of the balancer are cut for some
seconds, and that of the other server for longer than a ping may take; nothing tells the hosts. The program needs Linux,
root, iproute2, haproxy and redis-server, and it writes below /etc/netns.

Exit status: 1 if a client missed an accepted message, got one twice or out of order, or has a wrong list of users.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import anyio
import trustme
from anyio.abc import TaskStatus

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from pywsapp import CallError, CallTimeout, TopicsClient, TopicSubscription, connect_topics

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
HOST = "chat.example.com"
HOSTS = {"lb": "10.0.0.1", "redis": "10.0.0.5", "a": "10.0.0.11", "b": "10.0.0.12", "clients": "10.0.0.20"}
#: The namespace of the bridge; one of each host begins with "pw-" too.
SWITCH = "pw-switch"
ROOM = "room:tea"
#: The cables that are cut, and for how many seconds. 8 s are less than the time limit of a ping, 50 s are more.
CUTS = (("a", 8), ("redis", 8), ("lb", 8), ("b", 50))
#: Seconds after the last cut in which all clients must be back: a connection that hangs is noticed after 40 s.
RECOVERY = 60
#: Seconds between two messages of all clients. The chat keeps 50 messages, which must cover the longest cut.
PACE = 1.5


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def add_hosts(stack: ExitStack) -> None:
    """Add the hosts and a switch between them, and remove them when the stack is closed."""
    names = Path("/etc/netns/pw-clients")
    names.mkdir(parents=True)
    stack.callback(shutil.rmtree, names)
    (names / "hosts").write_text(f"{HOSTS['lb']} {HOST}\n")
    for host in (SWITCH, *(f"pw-{host}" for host in HOSTS)):
        stack.callback(ip, "netns", "del", host)
        ip("netns", "add", host)
        ip("-n", host, "link", "set", "lo", "up")
    # The bridge has a namespace too, because a firewall of this machine, such as that of Docker, can drop its packets.
    ip("-n", SWITCH, "link", "add", "bridge", "type", "bridge")
    ip("-n", SWITCH, "link", "set", "bridge", "up")
    for host, address in HOSTS.items():
        ip("-n", SWITCH, "link", "add", "name", host, "type", "veth", "peer", "name", "eth0", "netns", f"pw-{host}")
        ip("-n", SWITCH, "link", "set", "dev", host, "master", "bridge", "up")
        ip("-n", f"pw-{host}", "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", f"pw-{host}", "link", "set", "eth0", "up")


def start(stack: ExitStack, host: str, *command: str, cwd: Path) -> subprocess.Popen[bytes]:
    """Start a program on a host, and stop it when the stack is closed."""
    with (cwd / f"{host}.log").open("wb") as log:
        program = subprocess.Popen(["ip", "netns", "exec", f"pw-{host}", *command], cwd=cwd, stdout=log, stderr=log)
    stack.callback(program.wait)
    stack.callback(program.terminate)
    return program


def write_files(folder: Path) -> None:
    """Write the files of the tutorial, and those of HAProxy with a certificate."""
    for page in ("users.md", "two-machines.md"):
        text = (DOCS / "tutorial" / page).read_text()
        for name, content in re.findall(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```", text, re.DOTALL):
            (folder / name).write_text(content)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    text = (DOCS / "deploy" / "haproxy.cfg").read_text()
    changes = {
        "/etc/haproxy/chat.example.com.pem": str(folder / "both.pem"),
        "/run/haproxy/admin.sock": str(folder / "admin.sock"),
        "maxconn 100000": "maxconn 400",
    }
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "haproxy.cfg").write_text(text)


def run_hosts(args: argparse.Namespace) -> int:
    """Start all programs, cut the cables, and return the status of the clients."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pywsapp-machines-")))
        write_files(folder)
        add_hosts(stack)
        redis = ("redis-server", "--bind", HOSTS["redis"], "--requirepass", "password", "--save", "")
        start(stack, "redis", *redis, cwd=folder)
        settings = (f"PYTHONPATH={ROOT / 'src'}", f"CHAT_REDIS=redis://:password@{HOSTS['redis']}", f"CHAT_HOST={HOST}")
        for host in "a", "b":
            server = (sys.executable, "-m", "pywsapp", "run", "server:app", "--address", HOSTS[host], "--port", "8080")
            start(stack, host, "env", *settings, *server, "--workers", "auto", cwd=folder)
        start(stack, "lb", "haproxy", "-db", "-f", "haproxy.cfg", cwd=folder)
        seconds = sum(seconds for _, seconds in CUTS) + args.pause * (len(CUTS) + 1)
        command = (sys.executable, str(Path(__file__).resolve()), "--as-clients", str(seconds))
        clients = start(stack, "clients", *command, "--clients", str(args.clients), cwd=folder)
        time.sleep(args.pause)
        for host, seconds in CUTS:
            time.sleep(args.pause)
            ip("-n", SWITCH, "link", "set", "dev", host, "down")
            time.sleep(seconds)
            ip("-n", SWITCH, "link", "set", "dev", host, "up")
            print(f"the cable of {host} was cut for {seconds} s", flush=True)
        try:
            return clients.wait(RECOVERY + args.pause + 30)
        finally:
            for host in "clients", "a", "b":
                print(f"log of {host}:", (folder / f"{host}.log").read_text(), sep="\n")


class User:
    """A name, and what its client has received.

    Attributes:
        texts: the texts of the room, in the order in which they came.
        sees_all: whether its client knew all users at the end.
    """

    def __init__(self, name: str, tls: ssl.SSLContext) -> None:
        self.name = name
        self.tls = tls
        self.texts: list[str] = []
        self.sees_all = False

    def log_in(self) -> str:
        """Log in, and return the cookie."""
        site = HTTPSConnection(HOST, context=self.tls, timeout=10)
        site.request("POST", "/log-in", self.name)
        answer = site.getresponse()
        assert answer.status == 200, answer.read()
        return str(answer.headers["Set-Cookie"]).partition(";")[0]


class Chat:
    """The clients in the room, each of which has a user.

    Args:
        users: the users.
        seconds: how long they write.

    Attributes:
        accepted: the texts that the servers have accepted.
    """

    def __init__(self, users: list[User], seconds: float) -> None:
        self.accepted: set[str] = set()
        self._users = users
        self._seconds = seconds
        self._end = 0.0
        self._over = anyio.Event()

    async def run(self) -> None:
        """Run all clients until each has received all accepted texts, or for `RECOVERY` seconds after the last one."""
        async with anyio.create_task_group() as tasks:
            clients = [await tasks.start(self._take_part, user) for user in self._users]
            self._end = time.monotonic() + self._seconds
            async with anyio.create_task_group() as writing:
                for topics, user in clients:
                    writing.start_soon(self._write, topics, user)
            with anyio.move_on_after(RECOVERY):
                while not all(self.accepted <= set(user.texts) for user in self._users):  # noqa: ASYNC110 - all of them
                    await anyio.sleep(0.1)
            print(f"complete {time.monotonic() - self._end:.1f} s after the last message was due", flush=True)
            await anyio.sleep(1)  # for what comes twice
            self._over.set()

    async def _take_part(self, user: User, *, task_status: TaskStatus[tuple[TopicsClient, User]]) -> None:
        cookie = await anyio.to_thread.run_sync(user.log_in)
        async with (
            connect_topics(f"wss://{HOST}/live", tls=user.tls, headers={"Cookie": cookie}) as topics,
            topics.subscribe(ROOM, presence=True, track={}) as subscription,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._read, subscription, user)
            task_status.started((topics, user))
            await self._over.wait()
            print(user.name, "sees", sorted(subscription.present), flush=True)
            user.sees_all = sorted(subscription.present) == sorted(other.name for other in self._users)
            tasks.cancel_scope.cancel()

    async def _read(self, subscription: TopicSubscription[Any], user: User) -> None:
        async for message in subscription:
            user.texts.append(message.data["text"])

    async def _write(self, topics: TopicsClient, user: User) -> None:
        number = 0
        while time.monotonic() < self._end:
            await anyio.sleep(random.uniform(0.5, 1.5) * PACE * len(self._users))
            number += 1
            text = f"{user.name} {number}"
            while text not in self.accepted:
                try:
                    await topics.publish(ROOM, text, key=f"{user.name}-{number}")
                except (CallTimeout, CallError) as exc:
                    print(f"{user.name} publishes again: {exc!r}", flush=True)
                    await anyio.sleep(0.5)
                else:
                    self.accepted.add(text)


def run_clients(args: argparse.Namespace) -> int:
    """Run all clients, and return the exit status."""
    tls = ssl.create_default_context(cafile="authority.pem")
    for _ in range(100):
        try:
            User("test", tls).log_in()
            break
        except (OSError, AssertionError):
            time.sleep(0.2)
    users = [User(name, tls) for name in ("Ana", "Ben", "Cem", "Dua", "Eva", "Fin", "Gus", "Hal")[: args.clients]]
    room = Chat(users, args.as_clients)
    anyio.run(room.run)
    accepted = len(room.accepted)
    texts = users[0].texts
    found = {
        "messages accepted": accepted,
        "deliveries": sum(len(user.texts) for user in users),
        "twice": sum(len(user.texts) - len(set(user.texts)) for user in users),
        "in the same order": all(user.texts == texts for user in users),
        "every client sees all users": all(user.sees_all for user in users),
    }
    for name, value in found.items():
        print(f"{name:32}{value}")
    return int(list(found.values()) != [accepted, accepted * len(users), 0, True, True])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=4, help="users, at most 8 (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=6.0, help="seconds between two cuts (default: %(default)s)")
    parser.add_argument("--as-clients", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    return run_hosts(args) if args.as_clients is None else run_clients(args)


if __name__ == "__main__":
    sys.exit(main())
