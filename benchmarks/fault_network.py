"""A network namespace for the servers of a fault run, whose link to the broker can be delayed and cut."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess

from typing_extensions import Self

#: Addresses for tests of network devices (RFC 2544). A run takes eight of them at random, four for each link.
_NETWORK = "198.18.{}.{}"
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class NotAllowed(Exception):
    """This machine does not allow network namespaces, or a part of them; the text says why."""


class Network:
    """Two links between this namespace and a new one: for clients, and for the broker. A context manager.

    Args:
        delay: seconds that a packet takes on the link for the broker.

    Attributes:
        server_host: the address of the servers, for clients.
        broker_host: the address of this side, for what the servers connect to.
        command: what a command line begins with that runs in the new namespace.
        delay_problem: why the kernel does not delay packets; None if it does.

    Raises:
        NotAllowed: on entering, if this machine does not allow it.
    """

    def __init__(self, delay: float) -> None:
        number, net, host = secrets.token_hex(3), secrets.randbelow(256), 8 * secrets.randbelow(32)
        self._name = f"pywsapp-{number}"
        self._clients, self._broker = f"pwc{number}", f"pwb{number}"
        self._client_host, self.server_host = _NETWORK.format(net, host + 1), _NETWORK.format(net, host + 2)
        self.broker_host, self._server_host_for_broker = _NETWORK.format(net, host + 5), _NETWORK.format(net, host + 6)
        self._no_route = ("blackhole", f"{self._server_host_for_broker}/32")
        self._delay = delay
        self.command = [_program("ip"), "netns", "exec", self._name]
        self.delay_problem: str | None = None

    def __enter__(self) -> Self:
        try:
            _run("ip", "netns", "add", self._name)
            _run("ip", "-n", self._name, "link", "set", "dev", "lo", "up")
            self._add_link(self._clients, self._client_host, self.server_host)
            self._add_link(self._broker, self.broker_host, self._server_host_for_broker)
        except NotAllowed:
            self.__exit__()
            raise
        try:
            self._delay_packets()
        except NotAllowed as exc:
            self.delay_problem = str(exc)
        return self

    def __exit__(self, *_: object) -> None:
        for words in (
            ("route", "del", *self._no_route),
            ("link", "del", "dev", self._clients),
            ("link", "del", "dev", self._broker),
            ("netns", "del", self._name),
        ):
            subprocess.run([_program("ip"), *words], capture_output=True)

    def cut(self) -> None:
        """Let no packet pass between the servers and the broker; neither side is informed."""
        _run("ip", "link", "set", "dev", self._broker, "down")

    def restore(self) -> None:
        """Undo `cut`."""
        _run("ip", "link", "set", "dev", self._broker, "up")

    def cut_answers(self) -> None:
        """Let packets pass to the broker only, which does what the servers request; they receive no reply."""
        _run("ip", "route", "add", *self._no_route)

    def restore_answers(self) -> None:
        """Undo `cut_answers`."""
        _run("ip", "route", "del", *self._no_route)

    def _add_link(self, name: str, here: str, there: str) -> None:
        peer = f"{name}p"
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", peer, "netns", self._name)
        for inside, device, address in (([], name, here), (["-n", self._name], peer, there)):
            _run("ip", *inside, "address", "add", f"{address}/30", "dev", device)
            _run("ip", *inside, "link", "set", "dev", device, "up")

    def _delay_packets(self) -> None:
        for inside, device in (([], self._broker), (["-n", self._name], f"{self._broker}p")):
            netem = ("netem", "delay", f"{self._delay * 1000:g}ms")
            _run("tc", *inside, "qdisc", "add", "dev", device, "root", *netem)


def _program(name: str) -> str:
    return shutil.which(name, path=_PATH) or name


def _run(name: str, *words: str) -> None:
    try:
        done = subprocess.run([_program(name), *words], capture_output=True, text=True)
    except OSError as exc:
        raise NotAllowed(str(exc)) from exc
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        raise NotAllowed(f"{name} {' '.join(words[:3])}: {reason}")
