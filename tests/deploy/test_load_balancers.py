"""HAProxy and nginx in front of two servers, with the files of docs/deploy: whom they see, health, and replacing."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from support.balancers import CLIENT, Balanced, balanced
from support.serving import GUARD

pytestmark = pytest.mark.anyio

CLIENTS = 30
#: Seconds between two messages of a client.
PACE = 0.02


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # of the clients; the servers are processes


@pytest.fixture
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Balanced]:
    with balanced(request.param, tmp_path) as running:
        yield running


def behind(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("setup", kinds, indirect=True)


@behind("haproxy", "haproxy-tcp", "nginx", "nginx-stream")
async def test_clients_are_spread_and_seen_by_their_own_address(setup: Balanced) -> None:
    scheme = "http" if setup.kind == "nginx-stream" else "https"  # version 1 of the PROXY protocol cannot tell
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


@behind("haproxy", "haproxy-tcp")
async def test_a_server_that_is_about_to_end_keeps_its_clients_and_gets_no_new_ones(setup: Balanced) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(setup.client()) for _ in range(2)]
        old = {client.welcome["server"]: client for client in clients}
        assert set(old) == {"a", "b"}
        setup.servers["a"].send(signal.SIGTERM)
        await setup.until_balancer_says("Server chat/a is DOWN, reason: Layer7 wrong status, code: 503")
        for _ in range(4):
            new = await stack.enter_async_context(setup.client())
            assert new.welcome["server"] == "b"
        assert await old["a"].echo("still here") == 0
        assert await old["a"].closing() == 1012
        assert await old["b"].echo("here as well") == 0
    assert await setup.end("a") == 0


@behind("haproxy", "haproxy-tcp", "nginx")
async def test_a_server_is_replaced_under_load_and_nobody_sees_an_error(setup: Balanced) -> None:
    closings: Counter[tuple[str, int]] = Counter()
    first: Counter[str] = Counter()
    all_there, met_again, done = anyio.Event(), anyio.Event(), anyio.Event()

    async def talk(lasting: bool) -> None:  # any error in it fails the test
        generation = 0
        while not done.is_set():
            async with setup.client() as client:
                server = client.welcome["server"]
                if lasting and not generation:
                    first[server] += 1
                    if first.total() == CLIENTS:
                        all_there.set()
                if replaced and server == "a":
                    met_again.set()
                generation += 1
                number = code = 0
                while not code and not done.is_set() and (lasting or number < 3):
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
            await all_there.wait()
            setup.servers["a"].send(signal.SIGTERM)
            assert await setup.end("a") == 0
            assert first["a"] <= closings["a", 1012] <= first["a"] + 2
            await anyio.to_thread.run_sync(setup.start, "a", "asyncio")
            replaced = True
            await met_again.wait()
            done.set()
    assert set(closings) == {("a", 1012)}
    assert first["a"] > CLIENTS / 4
    assert first["b"] > CLIENTS / 4
