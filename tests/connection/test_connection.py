"""The identity, the state and the repr of a connection."""

from __future__ import annotations

import pytest
from support.serving import (
    Pipe,
    Recorder,
    serving,
)

pytestmark = pytest.mark.anyio


def test_an_id_is_never_reused() -> None:
    seen: list[int] = []
    for _ in range(100):
        pipe = Pipe(Recorder())
        pipe.conn.ping()
        seen.append(pipe.conn.id)
        pipe.conn.abort()
    assert len(set(seen)) == 100
    assert seen == list(range(seen[0], seen[0] + 100))


def test_state_holds_the_data_of_the_application() -> None:
    conn, other = Pipe(Recorder()).conn, Pipe(Recorder()).conn
    conn.state.name = "Ana"
    assert conn.state.name == "Ana"
    assert not hasattr(other.state, "name")


def test_other_attributes_cannot_be_set() -> None:
    conn = Pipe(Recorder()).conn
    with pytest.raises(AttributeError, match="Connection' object has no attribute 'name'"):
        conn.name = "Ana"  # type: ignore[attr-defined]
    assert not hasattr(conn, "__dict__")


async def test_the_repr_has_no_secrets() -> None:
    component = Recorder()
    async with (
        serving(component) as server,
        server.client("/rooms/1?token=secret", headers="Cookie: a=secret\r\n") as client,
    ):
        conn = component.conns[0]
        assert repr(conn) == f"<Connection {conn.id} /rooms/1 from 127.0.0.1 open>"
        assert conn.remote_address == "127.0.0.1"
        await client.close(3000)
        assert repr(conn) == f"<Connection {conn.id} /rooms/1 from 127.0.0.1 closed 3000>"


def test_connections_can_be_compared_and_kept_in_sets() -> None:
    one, other = Pipe(Recorder()).conn, Pipe(Recorder()).conn
    assert one == one
    assert one != other
    assert {one, other, one} == {one, other}
