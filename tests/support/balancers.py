"""Two servers of an app with a Redis between them, and in front HAProxy or nginx, with files of docs/deploy.

What is documented is what is tested: addresses, ports and paths in a file are replaced, and each must be there to be
replaced; nothing else is changed. All of it is on loopback, where a client can choose its own address in 127.0.0.0/8.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSStream

from support.program import BACKENDS, Program
from support.services import redis_server
from support.serving import CLOSE, GUARD, Client, close_code, close_frame

DEPLOY = Path(__file__).parent.parent.parent / "docs" / "deploy"
MISSING = "the tests of balancers need `apt-get install haproxy nginx libnginx-mod-stream`"
HOST = "chat.example.com"
#: Where the test's clients come from; the balancers come from 127.0.0.1.
CLIENT = "127.0.0.5"
#: Seconds for which a server that was told to end still takes clients: three times what HAProxy needs to see it.
DRAIN_DELAY = 3

# What is said to all goes through a Redis, which both servers share; everything else is said back.
SOURCE = """
import json

from pywsapp import App, MessageComponent, Options


class Chat(MessageComponent):
    async def on_open(self, conn):
        await app.topic("all").add(conn)
        request = conn.request
        conn.send(json.dumps({{"server": "{name}", "address": conn.remote_address, "scheme": request.scheme}}))

    async def on_message(self, conn, message):
        if message.startswith("to all: "):
            await app.topic("all").broadcast(message, exclude=conn)
        conn.send(message)


app = App(
    "{host}",
    {port},
    options=Options(drain_delay={delay}),
    proxy_protocol={proxy_protocol},
    trusted_proxies={trusted},
    broker="{broker}",
)
app.route("/chat", Chat())
app.health("/health")
app.run({run})
"""


def find(program: str) -> str:
    """Give the path of a program, or skip the test; in CI it fails."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


def free_ports(count: int) -> list[int]:
    """Find ports that stay free: the kernel gives none below 32768 to a connection on its way out."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20000, 32768)
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            found.add(port)
    return list(found)


class Balanced:
    """Two servers, "a" and "b", behind a balancer."""

    def __init__(self, kind: str, directory: Path, broker: str) -> None:
        self.kind = kind
        self._broker = broker
        self.haproxy = kind.startswith("haproxy")
        self._program = find("haproxy" if self.haproxy else "nginx")
        self._directory = directory
        authority = trustme.CA()
        certificate = authority.issue_cert(HOST)
        certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "both.pem"))
        self.tls = ssl.create_default_context()
        authority.configure_trust(self.tls)
        self._processes = ExitStack()
        self.port, *ports = free_ports(3)
        self._ports = dict(zip("ab", ports, strict=True))
        self.servers: dict[str, Program] = {}
        self.balancer: Program

    def start(self, name: str, loop: str) -> None:
        """Start a server, or the one that replaces it, and wait until it listens."""
        source = SOURCE.format(
            name=name,
            host=HOST,
            port=self._ports[name],
            # nginx never asks, so there is nothing to wait for
            delay=DRAIN_DELAY if self.haproxy else 0,
            proxy_protocol=self.kind in ("haproxy-tcp", "nginx-stream"),
            trusted=["127.0.0.1"],
            broker=self._broker,
            run=BACKENDS[loop],
        )
        self.servers[name] = self._processes.enter_context(Program(source))
        assert self.servers[name].port == self._ports[name]

    def start_balancer(self) -> None:
        """Start the balancer and wait until it listens."""
        config = self._directory / "balancer.conf"
        config.write_text(self._config())
        arguments = ["-db", "-f", str(config)] if self.haproxy else ["-p", str(self._directory), "-c", str(config)]
        if not self.haproxy:
            arguments += ["-g", f"daemon off; pid {self._directory}/pid; error_log stderr;"]
        become = ["-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", self._program]
        self.balancer = self._processes.enter_context(Program([*become, *arguments]))
        deadline = time.monotonic() + GUARD
        while time.monotonic() < deadline and self.balancer.process.poll() is None:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                time.sleep(0.02)
        pytest.fail(f"the balancer does not listen:\n{self.balancer.output}")

    def _config(self) -> str:
        text = (DEPLOY / f"{self.kind}.{'cfg' if self.haproxy else 'conf'}").read_text()
        here = self._directory
        changes = {"10.0.0.11:8080": f"127.0.0.1:{self._ports['a']}", "10.0.0.12:8080": f"127.0.0.1:{self._ports['b']}"}
        if self.haproxy:
            changes["bind :443 "] = f"bind 127.0.0.1:{self.port} "
            changes["/etc/haproxy/chat.example.com.pem"] = str(here / "both.pem")
            changes["/run/haproxy/"] = f"{here}/"
            changes["maxconn 100000"] = "maxconn 400"  # as many open files as a person who runs tests may have
        else:
            changes["listen 443 "] = f"listen 127.0.0.1:{self.port} "
            changes["/etc/ssl/chat/fullchain.pem"] = changes["/etc/ssl/chat/privkey.pem"] = str(here / "both.pem")
        if self.kind == "nginx":
            # What the package's own file says around, so that nothing is written outside the test's directory.
            paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            around = "".join(f"    {path}_temp_path {here}/{path};\n" for path in paths)
            changes["\nhttp {\n"] = f"\nhttp {{\n    access_log off;\n{around}"
        if self.kind == "nginx-stream":
            changes["load_module modules/"] = f"load_module {modules()}/"
        for documented, real in changes.items():
            lines = [line for line in text.splitlines() if not line.startswith("#")]
            assert documented in "\n" + "\n".join(lines) + "\n", f"{documented!r} is not in the documented file"
            text = text.replace(documented, real)
        return text

    @asynccontextmanager
    async def client(self, *, expected: int = 101, **headers: str) -> AsyncIterator[Visitor]:
        """Connect a client with wss, do its handshake and, if that is accepted, take the server's first message."""
        async with await anyio.connect_tcp("127.0.0.1", self.port, local_host=CLIENT) as stream:
            tls = await TLSStream.wrap(stream, hostname=HOST, ssl_context=self.tls, standard_compatible=False)
            client = Visitor(tls)
            fields = {"Origin": f"https://{HOST}", **headers}
            lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
            await client.handshake("/chat", headers=lines, host=HOST, expected=expected)
            if expected == 101:
                client.welcome = json.loads(await client.message())
            yield client

    async def until_balancer_says(self, pattern: str) -> None:
        """Wait until the balancer has written something."""
        await anyio.to_thread.run_sync(self.balancer.until, pattern)

    async def end(self, name: str) -> int:
        """Wait for the end of a server that was told to end; give its exit status."""
        return await anyio.to_thread.run_sync(self.servers[name].end)

    def close(self) -> None:
        balancer = getattr(self, "balancer", None)
        if balancer is not None and balancer.process.poll() is None:
            balancer.send(signal.SIGTERM)  # it has processes of its own, which a kill would leave behind
            balancer.end()
        self._processes.close()


class Visitor(Client):
    """A client, and what the server told it first."""

    welcome: dict[str, Any]

    async def echo(self, text: str) -> int:
        """Send a message and take it back: 0; or take the server's close frame instead, and close: the code."""
        await self.send(text)
        opcode, payload = await self.receive()
        if opcode == CLOSE:
            return await self._answer_close(payload)
        assert payload == text.encode()
        return 0

    async def closing(self) -> int:
        """Take the server's close frame, and close; give the code."""
        opcode, payload = await self.receive()
        assert opcode == CLOSE
        return await self._answer_close(payload)

    async def _answer_close(self, payload: bytes) -> int:
        code = close_code(payload)
        await self.stream.send(close_frame(code))
        await self.gone()
        return code


def modules() -> Path:
    """Give the folder of nginx's loadable modules, or skip the test."""
    for folder in ("/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/local/libexec/nginx"):
        if (Path(folder) / "ngx_stream_module.so").exists():
            return Path(folder)
    if os.environ.get("CI"):
        pytest.fail(MISSING)
    pytest.skip(MISSING)


@contextmanager
def balanced(kind: str, directory: Path) -> Iterator[Balanced]:
    """Run it all; the two servers run on different event loops, for no client shall see that."""
    with redis_server() as redis:
        setup = Balanced(kind, directory, redis.url)
        try:
            setup.start("a", "uvloop")
            setup.start("b", "trio")
            setup.start_balancer()
            yield setup
        finally:
            setup.close()
