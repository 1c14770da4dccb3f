"""Visits with sessions and tickets, which all workers share in a Redis."""

from __future__ import annotations

import asyncio
import json

import anyio

from pywsapp import HandshakeError
from soak.users import refused
from soak.world import Kind, Visitor, check, check_left, token_for

_MESSAGES = 4


async def post(visitor: Visitor, path: str, **fields: str) -> tuple[dict[str, str], str]:
    """Send a POST request; return the header fields and the body of the response.

    Raises:
        HandshakeError: the status is not 200.
    """
    host, port = visitor.address()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        head = {"Host": f"{host}:{port}", "Content-Length": "0", "Connection": "close", **fields}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head_of_answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *others = head_of_answer.rstrip().split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in others)}
        status = int(first.split()[1])
        if status != 200:
            raise HandshakeError(f"POST {path} was answered with {status}", status)
        body = (await reader.readexactly(int(found["content-length"]))).decode()
    finally:
        writer.close()
    return found, body


async def use_session(visitor: Visitor) -> None:
    """Count messages in a session; the next connections find the count, on all servers, until the logout."""
    fields, _ = await post(visitor, "/login")
    cookie = fields["set-cookie"].partition(";")[0]
    expected = 0
    for _ in range(3):
        async with visitor.open("session", cookie=cookie) as conn:
            check(json.loads(await conn.receive()) == {"count": expected}, "a session has lost a count")
            for _ in range(_MESSAGES):
                expected += 1
                conn.send("another one")
                check(json.loads(await conn.receive()) == {"count": expected}, "a session counts wrongly")
            await anyio.sleep(visitor.rng.uniform(0, 0.3))
        check_left(conn.close_code)
    await post(visitor, "/logout", Cookie=cookie)
    async with visitor.open("session", cookie=cookie) as conn:
        check(json.loads(await conn.receive()) == {"count": None}, "a session outlives its logout")


async def use_ticket(visitor: Visitor) -> None:
    """Open a connection with a ticket, which opens no second one."""
    token = token_for(visitor.new_name(), 600)
    _, ticket = await post(visitor, "/ticket", Authorization=f"Bearer {token}")
    try:
        async with visitor.open(f"ticketed?ticket={ticket}") as conn:
            conn.send("hello")
            check(await conn.receive() == "hello", "the echo is wrong")
    except HandshakeError as exc:
        # Redis removes a ticket as it reads it. If the connection breaks before the reply, the ticket is lost.
        raise HandshakeError(str(exc), 503 if exc.status == 401 else exc.status) from exc
    check_left(conn.close_code)
    await refused(visitor, f"ticketed?ticket={ticket}")


KINDS = (
    Kind("sessions", 4, 0.5, use_session, uses_store=True),
    Kind("tickets", 3, 0.5, use_ticket, uses_store=True),
)
