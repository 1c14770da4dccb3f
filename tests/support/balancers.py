"""Two servers of an app that share a Redis, behind HAProxy, nginx or Caddy with the files of docs/deploy.

The tests use the documented files. They replace addresses, ports and paths, and each replaced text must be in the file;
nothing else is changed. Everything runs on loopback, where a client can choose its own address in 127.0.0.0/8.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSStream

from support.program import BACKENDS, Program
from support.services import find_program, free_port, redis_server
from support.serving import CLOSE, GUARD, PING, PONG, Client, Frame, close_code, close_frame

DEPLOY = Path(__file__).parent.parent.parent / "docs" / "deploy"
MISSING = "needs nginx's stream module: apt-get install libnginx-mod-stream"
HOST = "chat.example.com"
#: The address of the clients in the test; the balancers have 127.0.0.1.
CLIENT = "127.0.0.5"
#: Seconds for which a server that shuts down still accepts clients: three times what HAProxy needs to notice it.
DRAIN_DELAY = 3

# Messages that begin with "to all: " go through the Redis that both servers share, and so do those that begin with
# "news: ", for event streams; all messages are echoed.
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
        elif message.startswith("news: "):
            await app.topic("news").broadcast(message)
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
app.history("news")
app.events("/events", topic="news")
app.health("/health")
app.run({run})
"""


def wait_until_listening(port: int, balancer: Program) -> None:
    """Wait until a balancer accepts connections."""
    deadline = time.monotonic() + GUARD
    while time.monotonic() < deadline and balancer.process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
    pytest.fail(f"the balancer does not listen:\n{balancer.output}")


def program_of(path: str, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> Program:
    """Run a program that is not written in Python."""
    become = ["-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", path]
    return Program([*become, *arguments], environment=environment)


class BalancedServers:
    """Two servers, "a" and "b", behind a balancer.

    Args:
        kind: the documented file without its extension: "haproxy", "haproxy-tcp", "nginx", "nginx-stream" or "caddy".
        directory: a directory for the files of the balancer.
        broker: the URL of the broker of both servers.
        source: the program of a server, to be formatted.
        additions: lines for the file of the balancer, and the line that each comes before.
    """

    def __init__(
        self,
        kind: str,
        directory: Path,
        broker: str,
        source: str = SOURCE,
        additions: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.kind = kind
        self._broker = broker
        self._source = source
        self._additions = additions
        self.name = kind.partition("-")[0]
        self._program = find_program(self.name, self.name)
        self._directory = directory
        authority = trustme.CA()
        certificate = authority.issue_cert(HOST)
        certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "both.pem"))
        self.tls = ssl.create_default_context()
        authority.configure_trust(self.tls)
        self._processes = ExitStack()
        self.port, *ports = [free_port() for _ in range(3)]
        self._ports = dict(zip("ab", ports, strict=True))
        self.servers: dict[str, Program] = {}
        self.balancer: Program

    def start(self, **loops: str) -> None:
        """Start servers, or their replacements, and wait until they listen.

        Args:
            loops: the names of the servers, and the event loop of each.
        """
        for name, loop in loops.items():
            self._launch(name, loop)
        for name in loops:
            assert self.servers[name].port == self._ports[name]

    def _launch(self, name: str, loop: str) -> None:
        source = self._source.format(
            name=name,
            host=HOST,
            port=self._ports[name],
            # nginx makes no health checks, so there is nothing to wait for.
            delay=0 if self.name == "nginx" else DRAIN_DELAY,
            proxy_protocol=self.kind in ("haproxy-tcp", "nginx-stream"),
            trusted=["127.0.0.1"],
            broker=self._broker,
            run=BACKENDS[loop],
        )
        self.servers[name] = self._processes.enter_context(Program(source))

    async def restart_ended_servers(self) -> None:
        """Start the servers that have ended, and wait until the balancer uses them."""
        ended = [name for name, server in self.servers.items() if server.process.poll() is not None]
        await anyio.to_thread.run_sync(lambda: self.start(**dict.fromkeys(ended, "asyncio")))
        with anyio.fail_after(GUARD):
            for name in ended:
                server = ""
                while server != name:
                    async with self.client() as client:
                        server = client.welcome["server"]
                        await client.close()
                    await anyio.sleep(0.05)

    def start_balancer(self) -> None:
        """Start the balancer and wait until it listens."""
        config = self._directory / "balancer.conf"
        config.write_text(self._config())
        arguments = {
            "haproxy": ["-db", "-f", str(config)],
            "nginx": [
                *("-p", str(self._directory), "-c", str(config)),
                *("-g", f"daemon off; pid {self._directory}/pid; error_log stderr;"),
            ],
            "caddy": ["run", "--adapter", "caddyfile", "--config", str(config)],
        }[self.name]
        self.balancer = self._processes.enter_context(
            program_of(self._program, *arguments, environment={"XDG_CONFIG_HOME": str(self._directory)})
        )
        wait_until_listening(self.port, self.balancer)

    def _config(self) -> str:
        file = {"haproxy": f"{self.kind}.cfg", "nginx": f"{self.kind}.conf", "caddy": "Caddyfile"}[self.name]
        text = (DEPLOY / file).read_text()
        here = self._directory
        changes = {"10.0.0.11:8080": f"127.0.0.1:{self._ports['a']}", "10.0.0.12:8080": f"127.0.0.1:{self._ports['b']}"}
        if self.name == "haproxy":
            changes["bind :443 "] = f"bind 127.0.0.1:{self.port} "
            changes["/etc/haproxy/chat.example.com.pem"] = str(here / "both.pem")
            changes["/run/haproxy/"] = f"{here}/"
            changes["maxconn 100000"] = "maxconn 400"  # the limit of open files can be low where the tests run
        elif self.name == "caddy":
            # Caddy gets no certificate, opens no admin port, and writes only to the test's directory.
            options = ("grace_period 100ms", "admin off", "auto_https off")
            changes["grace_period 10s"] = "\n\t".join([*options, f"storage file_system {here}"])
            site = (f"chat.example.com:{self.port} {{", "bind 127.0.0.1", f"tls {here}/both.pem {here}/both.pem")
            changes["chat.example.com {"] = "\n\t".join(site)
        else:
            changes["listen 443 "] = f"listen 127.0.0.1:{self.port} "
            changes["/etc/ssl/chat/fullchain.pem"] = changes["/etc/ssl/chat/privkey.pem"] = str(here / "both.pem")
        if self.kind == "nginx":
            # These replace the settings of the package's main file, so that nginx writes only to the test's directory.
            paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            around = "".join(f"    {path}_temp_path {here}/{path};\n" for path in paths)
            changes["\nhttp {\n"] = f"\nhttp {{\n    access_log off;\n{around}"
        if self.kind == "nginx-stream":
            changes["load_module modules/"] = f"load_module {modules()}/"
        for line, addition in self._additions.items():
            changes[line] = f"{addition}\n{line}"
        for documented, real in changes.items():
            lines = [line for line in text.splitlines() if not line.startswith("#")]
            assert documented in "\n" + "\n".join(lines) + "\n", f"{documented!r} is not in the documented file"
            text = text.replace(documented, real)
        return text

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[TLSStream]:
        """Connect over TLS."""
        async with await anyio.connect_tcp("127.0.0.1", self.port, local_host=CLIENT) as stream:
            yield await TLSStream.wrap(stream, hostname=HOST, ssl_context=self.tls, standard_compatible=False)

    @asynccontextmanager
    async def client(self, *, expected: int = 101, **headers: str) -> AsyncIterator[ChatClient]:
        """Connect a client with wss, do its handshake and, after a 101, receive the server's first message."""
        async with self.connected() as tls:
            client = ChatClient(tls)
            fields = {"Origin": f"https://{HOST}", **headers}
            lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
            await client.handshake("/chat", headers=lines, host=HOST, expected=expected)
            if expected == 101:
                client.welcome = json.loads(await client.message())
            yield client

    async def until_balancer_writes(self, pattern: str, start: int) -> None:
        """Wait until the output of the balancer matches a pattern, from a position on."""
        await anyio.to_thread.run_sync(self.balancer.until, pattern, start)

    async def end(self, name: str) -> int:
        """Wait for the end of a server that shuts down; return its exit status."""
        return await anyio.to_thread.run_sync(self.servers[name].end)

    def close(self) -> None:
        balancer = getattr(self, "balancer", None)
        if balancer is not None and balancer.process.poll() is None:
            balancer.send(signal.SIGTERM)  # SIGKILL would leave its child processes behind
            balancer.end()
        self._processes.close()


class ChatClient(Client):
    """A client of the chat.

    Attributes:
        welcome: the server's first message, with its name and what it knows about the client.
    """

    welcome: dict[str, Any]

    async def receive(self) -> Frame:
        """Return the next frame, apart from pings, which are answered."""
        while (received := await super().receive())[0] == PING:
            await self.send_frame(PONG, received[1])
        return received

    async def echo(self, text: str) -> int:
        """Send a message and receive it back; return 0, or the code if the server closes instead."""
        await self.send(text)
        opcode, payload = await self.receive()
        if opcode == CLOSE:
            return await self._answer_close(payload)
        assert payload == text.encode()
        return 0

    async def receive_and_answer_close(self) -> int:
        """Receive the server's close frame and answer it; return the code."""
        opcode, payload = await self.receive()
        assert opcode == CLOSE
        return await self._answer_close(payload)

    async def _answer_close(self, payload: bytes) -> int:
        code = close_code(payload)
        await self.stream.send(close_frame(code))
        await self.read_to_end()
        return code


def modules() -> Path:
    """Return the directory of nginx's loadable modules; skip the test if there is none."""
    for folder in ("/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/local/libexec/nginx"):
        if (Path(folder) / "ngx_stream_module.so").exists():
            return Path(folder)
    if os.environ.get("CI"):
        pytest.fail(MISSING)
    pytest.skip(MISSING)


@contextmanager
def balanced(kind: str, directory: Path) -> Iterator[BalancedServers]:
    """Run the servers and the balancer; the servers run on different event loops, which clients must not notice."""
    with redis_server() as redis, closing(BalancedServers(kind, directory, redis.url)) as setup:
        setup.start(a="uvloop", b="trio")
        setup.start_balancer()
        yield setup
