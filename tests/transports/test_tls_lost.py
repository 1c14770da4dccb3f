"""A TLS transport of asyncio accepts calls between the loss of the connection and `connection_lost`."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSStream
from support.serving import GUARD, Client

from pywsapp._server.bind import ListeningSocket
from pywsapp._server.server import Server
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.options import Options

pytestmark = pytest.mark.anyio


class Site(MessageComponent):
    """Tries everything in the turn between a loss and `connection_lost`."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []
        self.closed: list[Connection] = []
        self.failures: list[Exception] = []
        self.tried_before_close: list[bool] = []

    def on_open(self, conn: Connection) -> None:
        self.opened.append(conn)

    def on_close(self, conn: Connection) -> None:
        self.closed.append(conn)

    def lose(self, conn: Connection) -> None:
        """Lose the inner transport, and try everything before `connection_lost`."""
        transport: Any = conn._outbox.transport
        machine: Any = conn._driver.machine  # type: ignore[union-attr]

        def use() -> None:
            self.tried_before_close.append(conn not in self.closed)
            for call, *args in (
                (transport.pause_reading,),
                (transport.resume_reading,),
                (transport.get_write_buffer_size,),
                (transport.set_write_buffer_limits, 1000),
                (transport.write, b"x"),
                (machine.pause_reading, 1),
                (conn.send, "x"),
                (conn.close,),
                (conn.abort,),
            ):
                try:
                    call(*args)
                except Exception as exc:
                    self.failures.append(exc)

        transport.abort()
        asyncio.get_running_loop().call_soon(use)


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_a_lost_connection_can_be_used_until_its_end() -> None:
    authority, tls, trusting = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(tls)
    authority.configure_trust(trusting)
    site, listening = Site(), anyio.Event()
    server = Server(site, Options(drain_timeout=5))

    async def started(_: Any) -> None:
        listening.set()

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, [ListeningSocket(port=0, tls=tls)], started)
            await listening.wait()
            port = server.sockets[0].getsockname()[1]
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                secure = await TLSStream.wrap(
                    stream, hostname="localhost", ssl_context=trusting, standard_compatible=False
                )
                client = Client(secure)
                await client.handshake()
                site.lose(site.opened[0])
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await secure.receive()
            server.stop()
    assert site.tried_before_close == [True]
    assert site.failures == []
    assert site.closed == site.opened
