"""HAProxy, nginx and Caddy before two servers, with the files of docs/deploy: addresses, health and replacement."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack

import anyio
import pytest
from support.balancers import CLIENT, HOST, BalancedServers, balanced
from support.serving import GUARD

pytestmark = pytest.mark.anyio

CLIENTS = 30
#: Seconds between two messages of a client.
PACE = 0.02
#: What a balancer writes when it notices that a server shuts down.
NOTICED = {
    "haproxy": "Server chat/a is DOWN, reason: Layer7 wrong status, code: 503",
    "caddy": '"msg":"unexpected status code","status_code":503',
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # runs the clients; the servers are processes


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BalancedServers]:
    with balanced(request.param, tmp_path_factory.mktemp(request.param)) as servers:
        yield servers


@pytest.fixture
async def setup(running: BalancedServers) -> BalancedServers:
    """The servers behind a balancer, both running: a test can leave one that has ended."""
    await running.restart_ended_servers()
    return running


def behind(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("running", kinds, indirect=True)


@behind("haproxy", "haproxy-tcp", "nginx", "nginx-stream", "caddy")
async def test_servers_share_the_clients_and_see_their_addresses(setup: BalancedServers) -> None:
    scheme = "http" if setup.kind == "nginx-stream" else "https"  # version 1 of the PROXY protocol has no scheme
    seen, clients = [], []
    async with AsyncExitStack() as stack:
        for number in range(4):
            forged = setup.client(X_Forwarded_For="192.0.2.66", X_Forwarded_Proto="http")
            client = await stack.enter_async_context(forged)
            assert await client.echo(f"message {number}") == 0
            seen.append(client.welcome)
            clients.append(client)
        assert {(one["address"], one["scheme"]) for one in seen} == {(CLIENT, scheme)}
        assert Counter(one["server"] for one in seen) == {"a": 2, "b": 2}
        await client.send("to all: hello")
        assert [await other.message() for other in clients] == ["to all: hello"] * 4
    async with setup.client(Origin="https://evil.example", expected=403):
        pass


@behind("haproxy", "haproxy-tcp", "nginx", "caddy")
async def test_replacing_a_server_under_load_causes_no_errors(setup: BalancedServers) -> None:
    closings: Counter[tuple[str, int]] = Counter()
    first: Counter[str] = Counter()
    all_connected, is_used_again, done = anyio.Event(), anyio.Event(), anyio.Event()

    async def talk(is_lasting: bool) -> None:  # an error in it fails the test
        generation = 0
        while not done.is_set():
            async with setup.client() as client:
                server = client.welcome["server"]
                if is_lasting and not generation:
                    first[server] += 1
                    if first.total() == CLIENTS:
                        all_connected.set()
                if replaced and server == "a":
                    is_used_again.set()
                generation += 1
                number = code = 0
                while not code and not done.is_set() and (is_lasting or number < 3):
                    number += 1
                    code = await client.echo(str(number))
                    await anyio.sleep(PACE)
                if code:
                    closings[server, code] += 1
                else:
                    await client.close()

    replaced = False
    with anyio.fail_after(2 * GUARD):
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS + 2):
                tasks.start_soon(talk, number < CLIENTS)
            await all_connected.wait()
            setup.servers["a"].send(signal.SIGTERM)
            assert await setup.end("a") == 0
            await anyio.to_thread.run_sync(lambda: setup.start(a="asyncio"))
            replaced = True
            await is_used_again.wait()
            done.set()
    # Counted at the end: the balancer can pass the last close frames on after the end of the server.
    assert set(closings) == {("a", 1012)}
    assert first["a"] <= closings["a", 1012] <= first["a"] + 2
    assert first["a"] > CLIENTS / 4
    assert first["b"] > CLIENTS / 4


@behind("haproxy", "haproxy-tcp", "caddy")
async def test_a_server_that_shuts_down_keeps_its_clients_and_gets_no_new_ones(setup: BalancedServers) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(setup.client()) for _ in range(2)]
        old = {client.welcome["server"]: client for client in clients}
        assert set(old) == {"a", "b"}
        position = len(setup.balancer.output)
        setup.servers["a"].send(signal.SIGTERM)
        await setup.until_balancer_writes(NOTICED[setup.name], position)
        assert await old["a"].echo("still here") == 0
        for _ in range(4):
            new = await stack.enter_async_context(setup.client())
            assert new.welcome["server"] == "b"
        assert await old["a"].receive_and_answer_close() == 1012
        assert await old["b"].echo("here as well") == 0
    assert await setup.end("a") == 0


async def receive_events(setup: BalancedServers, until: str, last_event_id: str = "") -> str:
    """Return what an event stream sends up to a text."""
    fields = f"Last-Event-ID: {last_event_id}\r\n" if last_event_id else ""
    received = ""
    with anyio.fail_after(GUARD):
        async with setup.connected() as stream:
            await stream.send(f"GET /events HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n".encode())
            while until not in received:
                received += (await stream.receive()).decode()
    return received


# This is the last test: a balancer notices only with the next event that the client of a stream has gone. Until then it
# counts the stream, and sends the next client to the other server.
@behind("haproxy", "haproxy-tcp", "nginx", "nginx-stream", "caddy")
async def test_event_streams_are_not_buffered_and_resume_on_any_server(setup: BalancedServers) -> None:
    async with setup.client() as client:
        assert await client.echo("news: one") == 0
        first = await receive_events(setup, "data: news: one\n\n")
        assert "text/event-stream" in first
        last = first.rpartition("id: ")[2].partition("\n")[0].strip()
        async with anyio.create_task_group() as tasks:
            for _ in range(2):  # the balancer sends them to both servers
                tasks.start_soon(receive_events, setup, "data: news: two\n\n", last)
            assert await client.echo("news: two") == 0
        again = await receive_events(setup, "data: news: two\n\n", last)
        assert "news: one" not in again
