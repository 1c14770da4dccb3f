"""One App under each ASGI server: the table of differences in docs/howto/run-in-a-website.md."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from typing import Any, NamedTuple

import anyio
import pytest
from support.asgi_servers import ask, chat, exchange
from support.program import Program
from support.services import free_port
from support.serving import GUARD
from support.wire import Peer, get, handshake

from pywsapp import ConnectionClosed

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

APP = "support.asgi_program:app"


class Host(NamedTuple):
    """An ASGI server, and what it cannot do.

    Args:
        command: the arguments of Python; PORT is replaced.
        refusal: the status of a handshake that the App refuses with 404.
        closes: the code and reason that a client sees for `conn.close(4000, "enough")`.
        fault: the code for `conn.close(1011)`.
        peer: what `on_close` sees of a client that closes with 3001 and "mine".
        lost: what `on_close` sees of a client that is gone.
    """

    command: list[str]
    refusal: int = 404
    closes: tuple[int, str] = (4000, "enough")
    fault: int = 1011
    peer: str = "3001 'mine'"
    lost: str = "1006 'connection lost'"


HOSTS = {
    "uvicorn-pywsapp": Host(["-m", "uvicorn", APP, "--port", "PORT", "--ws", "pywsapp.asgi.uvicorn:Protocol"]),
    "uvicorn-websockets": Host(["-m", "uvicorn", APP, "--port", "PORT", "--ws", "websockets"]),
    "uvicorn-sansio": Host(["-m", "uvicorn", APP, "--port", "PORT", "--ws", "websockets-sansio"], lost="1005 ''"),
    "uvicorn-wsproto": Host(["-m", "uvicorn", APP, "--port", "PORT", "--ws", "wsproto"], lost="1005 ''"),
    "hypercorn": Host(["-m", "hypercorn", APP, "-b", "127.0.0.1:PORT"], peer="1006 'connection lost'"),
    "granian": Host(["-m", "granian", "--interface", "asgi", APP, "--port", "PORT"], peer="3001 ''", lost="1005 ''"),
    "daphne": Host(["-m", "daphne", "-p", "PORT", APP], refusal=403, closes=(4000, ""), fault=1000, peer="3001 ''"),
}


@pytest.fixture(params=HOSTS, scope="module")
def running(request: Any) -> Any:
    host = HOSTS[request.param]
    port = free_port()
    # Some of the servers use what their libraries warn of.
    with Program(["-W", "ignore", *[part.replace("PORT", str(port)) for part in host.command]]) as program:
        yield host, port, program
        program.send(signal.SIGTERM)  # granian ends its worker
        program.end()


@pytest.fixture
async def reachable(running: Any) -> Any:
    host, port, program = running
    with anyio.fail_after(GUARD):
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            await anyio.sleep(0.05)
    return host, port, program


async def end_of(conn: Any) -> ConnectionClosed:
    with pytest.raises(ConnectionClosed) as caught, anyio.fail_after(GUARD):
        await conn.receive()
    return caught.value


async def test_messages_and_requests(reachable: Any) -> None:
    _, port, program = reachable
    async with chat(port, "/told", subprotocols=["chat"]) as conn:
        assert conn.subprotocol == "chat"
        assert await exchange(conn, "hällo") == "hällo"
        assert await exchange(conn, bytes(100_000)) == bytes(100_000)
    assert (await ask(port, get("/hello", host=f"127.0.0.1:{port}"))).body == b"hello"
    assert "this process is one of" not in program.output


async def test_how_a_handshake_is_refused(reachable: Any) -> None:
    host, port, _ = reachable
    async with Peer(socket.create_connection(("127.0.0.1", port))) as peer:
        await peer.send(handshake("/none"))
        assert (await peer.head())[0] == host.refusal


async def test_how_the_app_closes(reachable: Any) -> None:
    host, port, program = reachable
    async with chat(port, "/told") as conn:
        await conn.send("close")
        end = await end_of(conn)
    assert (end.code, end.reason) == host.closes
    async with chat(port, "/told") as conn:
        await conn.send("fault")
        assert (await end_of(conn)).code == host.fault
    assert program.until(r"closed \d+ 'enough'")[0] == "closed 4000 'enough'"
    assert program.until(r"closed \d+ 'fault'")[0] == "closed 1011 'fault'"


async def test_how_the_app_aborts(reachable: Any) -> None:
    _, port, program = reachable
    async with chat(port, "/told") as conn:
        await conn.send("abort")
        await end_of(conn)
    assert program.until(r"closed \d+ 'aborted'")[0] == "closed 1006 'aborted'"


async def test_how_a_client_closes(reachable: Any) -> None:
    host, port, program = reachable
    start = len(program.output)
    async with chat(port, "/told") as conn:
        await exchange(conn, "?")
        await conn.close(3001, "mine")
    assert program.until(r"closed (3001|1006) '.*'", start)[0] == f"closed {host.peer}"


async def test_how_a_client_is_lost(reachable: Any) -> None:
    host, port, program = reachable
    peer = Peer(socket.create_connection(("127.0.0.1", port)))
    await peer.send(handshake("/told"))
    assert (await peer.head())[0] == 101
    peer.reset()
    program.until(f"closed {host.lost}")
