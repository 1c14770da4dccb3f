"""Visits of users: messages to all connections of a user, tokens that are renewed and tokens that expire."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import anyio
from anyio.abc import TaskStatus

from pywsapp import ClientConnection, CloseCode, ConnectionClosed, HandshakeError
from pywsapp.client import ConnectContext
from soak.world import Kind, Visitor, World, check, check_left, token_for

_TEXTS = 8
#: Seconds of tokens that are renewed, and between two renewals; a client that is later than this does not count.
_RENEWED_SECONDS, _RENEW_SECONDS, _SPARE_SECONDS = 5.0, 1.0, 2.5
_RENEWALS = 6
_EXPIRING_SECONDS, _LATEST_SECONDS = 2.0, 15.0
_LONG = 600.0
#: For the check without faults: users, connections of each, texts from each connection to each user in each batch.
_USERS, _CONNECTIONS, _BATCH = 4, 3, 4
_ARRIVAL_SECONDS = 20.0


async def send_to_users(visitor: Visitor) -> None:
    """Send to oneself and to others. What a user sends to itself comes once; nothing comes twice or to another user."""
    rng = visitor.rng
    name, seen, own = f"user-{rng.randrange(8)}", set[str](), set[str]()
    unique = visitor.new_name()
    async with visitor.open("account", token=token_for(name, _LONG)) as conn:
        for number in range(_TEXTS):
            to = name if rng.random() < 0.5 else f"user-{rng.randrange(8)}"
            text = f"{to} {unique} {number}"
            conn.send(json.dumps({"to": to, "text": text}))
            if to == name:
                own.add(text)
            while True:
                answer = json.loads(await conn.receive())
                if answer.get("accepted", answer.get("failed")) == text:
                    break
                check(answer["text"].split()[0] == name, "a message came to another user")
                check(answer["text"] not in seen, "a message to a user came twice")
                seen.add(answer["text"])
            check(own <= seen, "a message of a user to itself is missing")
    check_left(conn.close_code)


async def renew(visitor: Visitor) -> None:
    """Renew the token again and again; the connection outlives the first one."""
    name = visitor.new_name()
    expires = time.monotonic() + _RENEWED_SECONDS
    async with visitor.open("account", token=token_for(name, _RENEWED_SECONDS)) as conn:
        for _ in range(_RENEWALS):
            await anyio.sleep(_RENEW_SECONDS)
            if visitor.world.is_over:
                break
            if expires - time.monotonic() < _SPARE_SECONDS:
                return  # this program was too slow
            conn.send(json.dumps({"token": token_for(name, _RENEWED_SECONDS)}))
            renewed = time.monotonic() + _RENEWED_SECONDS
            check(json.loads(await conn.receive()) == {"renewed": True}, "a token was not renewed")
            expires = renewed
    check_left(conn.close_code)


async def expire(visitor: Visitor) -> None:
    """Keep a token until it expires: the server closes with 4401, not before; a token that has expired is refused."""
    token, expires = token_for(visitor.new_name(), _EXPIRING_SECONDS), time.monotonic() + _EXPIRING_SECONDS
    async with visitor.open("account", token=token) as conn:
        if visitor.rng.random() < 0.3:
            conn.send(json.dumps({"token": token_for("another user", _LONG)}))
            expires = 0.0  # it is closed at once
        try:
            await conn.receive()
        except ConnectionClosed as exc:
            if exc.code != CloseCode.UNAUTHENTICATED:
                raise
        late = time.monotonic() - expires
        check(late > -0.1, f"the server closed {-late:.1f} s before the token expired")
        check(not expires or late < _LATEST_SECONDS, f"the server closed {late:.1f} s after the token expired")
    await anyio.sleep(max(0.0, expires - time.monotonic()))
    if expires:
        await refused(visitor, "account", token)


async def refused(visitor: Visitor, path: str, token: str | None = None) -> None:
    """Check that a handshake is refused with status 401."""
    try:
        async with visitor.open(path, token=token):
            pass
    except HandshakeError as exc:
        if exc.status != 401:
            raise
    else:
        check(condition=False, text=f"/{path.partition('?')[0]} accepted credentials that are not valid")


# -- without faults ----------------------------------------------------------------------------------------------------


class _Mailbox:
    """One connection of a user: how often each text arrived.

    Attributes:
        received: the texts that arrived.
    """

    def __init__(self, user: str, conn: ClientConnection) -> None:
        self.user = user
        self.conn = conn
        self.received: list[str] = []

    def has(self, texts: list[str]) -> bool:
        """Return whether as many texts as these have arrived."""
        return len(self.received) >= len(texts)

    async def run(self) -> None:
        """Receive until cancelled."""
        while True:
            answer = json.loads(await self.conn.receive())
            if "text" in answer:
                self.received.append(answer["text"])


async def check_users(world: World, visitor: Visitor) -> None:
    """Send to users while there is no fault: each text arrives once, at each connection of the user, and in order."""
    names = [visitor.new_name() for _ in range(_USERS)]
    boxes: list[_Mailbox] = []
    async with anyio.create_task_group() as tasks:
        for number in range(_USERS * _CONNECTIONS):
            visitor.server = world.setup.servers[number % len(world.setup.servers)]
            user = names[number // len(world.setup.servers) % _USERS]
            boxes.append(await tasks.start(_hold, visitor.open("account", token=token_for(user, _LONG)), user))
        sent: dict[str, list[str]] = {name: [] for name in names}
        for batch in range(2):  # when all of the second one has arrived, nothing of the first one is on its way
            _send_batch(boxes, batch, sent)
            with anyio.move_on_after(_ARRIVAL_SECONDS):
                while not all(box.has(sent[box.user]) for box in boxes):  # noqa: ASYNC110 - many may arrive
                    await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    for box in boxes:
        for problem in _problems_of(box, sent[box.user]):
            world.problems.add(f"users: without a fault {problem}")
    world.counts["texts to users without faults"] += sum(map(len, sent.values()))


async def _hold(opening: ConnectContext, user: str, *, task_status: TaskStatus[_Mailbox]) -> None:
    async with opening as conn:
        box = _Mailbox(user, conn)
        task_status.started(box)
        await box.run()


def _send_batch(boxes: list[_Mailbox], batch: int, sent: dict[str, list[str]]) -> None:
    for sender, box in enumerate(boxes):
        for user, texts in sent.items():
            for number in range(_BATCH):
                texts.append(f"{sender} {batch} {number}")
                box.conn.send(json.dumps({"to": user, "text": texts[-1]}))


def _problems_of(box: _Mailbox, sent: list[str]) -> Iterator[str]:
    missing, more = len(set(sent) - set(box.received)), len(box.received) - len(set(box.received))
    if missing or more:
        yield f"{missing} texts are missing, and {more} came twice"
    for sender in {text.split()[0] for text in sent}:
        received = [text for text in box.received if text.split()[0] == sender]
        if received != sorted(received):
            yield "texts of one sender are not in order"


KINDS = (
    Kind("send to users", 6, 0.5, send_to_users),
    Kind("renew the token", 3, 1.0, renew),
    Kind("let the token expire", 3, 1.0, expire),
)
