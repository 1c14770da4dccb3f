"""What the visitors of a soak run share: servers, faults and problems; a visitor repeats visits of one kind.

A visit connects, uses one part of the application, checks all answers, and leaves. It raises `Violation` if an answer
is wrong. A connection that is lost, or a handshake that is refused, is a problem too, unless a fault explains it:

- A server whose workers are replaced closes its connections. Servers that are spared never do.
- While the Redis of sessions, tickets and limits is unavailable, a visit that needs it can be refused with status 503,
  or closed with code 1013.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import anyio
from benchmarks.fault_kinds import Faults
from benchmarks.fault_servers import Server, Setup

from pywsapp import CloseCode, ConnectionClosed, Deflate, HandshakeError, Options, connect
from pywsapp.client import ConnectContext
from soak.server import AUDIENCE, ISSUER, SECRET

#: Seconds that a visit can take. The longest ones wait for a broker that is unavailable.
VISIT_SECONDS = 90.0
#: Seconds after a fault in which it explains a lost connection or a refusal.
_REPLACED_SECONDS, _OUTAGE_SECONDS = 40.0, 60.0
#: The kinds of faults after which the Redis can be unavailable.
OUTAGES = ("freeze", "restart", "late", "cut", "mute")
_MAX_EXAMPLES = 50
_OPTIONS = Options(handshake_timeout=30.0, ping_timeout=60.0)


class Violation(Exception):
    """An answer that a server must not give."""


@dataclass
class Problems:
    """What a run found, each text once."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        """Add a problem, or count it again."""
        if text not in self.counts:
            if len(self.counts) >= _MAX_EXAMPLES:
                return
            print(f"\nPROBLEM: {text}", flush=True)
        self.counts[text] += 1

    def lines(self) -> list[str]:
        """Return a line for each problem."""
        return [text + (f" ({count} times)" if count > 1 else "") for text, count in self.counts.items()]


@dataclass
class World:
    """What the visitors of some servers share during one round.

    Args:
        args: the options of the run.
        setup: the servers, which share a broker.
        faults: the faults of this round.
        problems: where violations go.
        counts: the visits that ended well, and those that a fault interrupted.

    Attributes:
        is_over: whether visitors leave.
    """

    args: argparse.Namespace
    setup: Setup
    faults: Faults
    problems: Problems
    counts: Counter[str]
    is_over: bool = False

    def had_outage(self) -> bool:
        """Return whether the Redis or the broker can be unavailable."""
        return any(self._is_recent(name, _OUTAGE_SECONDS) for name in OUTAGES)

    def explains(self, exc: Exception, server: Server, began: float, *, uses_store: bool) -> bool:
        """Return whether a fault explains the end of a visit that began at a time of the monotonic clock."""
        seconds = time.monotonic() - began
        if server not in self.setup.spared and self._is_recent("reload", _REPLACED_SECONDS + seconds):
            return True
        refused = isinstance(exc, HandshakeError) and exc.status == 503
        closed = isinstance(exc, ConnectionClosed) and exc.code == CloseCode.TRY_AGAIN_LATER
        return uses_store and (refused or closed) and self.had_outage()

    def _is_recent(self, name: str, seconds: float) -> bool:
        return time.monotonic() - self.faults.latest.get(name, float("-inf")) < seconds


class Visitor:
    """Repeats visits of one kind.

    Args:
        world: what it shares with the others.
        kind: the kind of its visits.
        rng: chooses servers and actions.
        server: the first server; a random one by default.

    Attributes:
        server: the server of the present visit.
    """

    def __init__(self, world: World, kind: Kind, rng: random.Random, server: Server | None = None) -> None:
        self.world = world
        self.rng = rng
        self.server = server or rng.choice(world.setup.servers)
        self._kind = kind

    async def run(self) -> None:
        """Repeat visits until the round is over."""
        while not self.world.is_over:
            self.server = self.rng.choice(self.world.setup.servers)
            await self.visit()
            await anyio.sleep(self.rng.uniform(0, 2 * self._kind.pause))

    async def visit(self) -> bool:
        """Visit once; return whether nothing interrupted it."""
        name, began = self._kind.name, time.monotonic()
        try:
            with anyio.fail_after(VISIT_SECONDS):
                await self._kind.visit(self)
        except Violation as exc:
            self.world.problems.add(f"{name}: {exc}")
        except TimeoutError:
            self.world.problems.add(f"{name}: a visit took more than {VISIT_SECONDS:g} s")
        except (OSError, EOFError, HandshakeError, ConnectionClosed) as exc:
            self.world.counts["interrupted"] += 1
            if not self.world.explains(exc, self.server, began, uses_store=self._kind.uses_store):
                self.world.problems.add(f"{name}: no fault explains {type(exc).__name__}: {exc}")
        else:
            self.world.counts[name] += 1
            return True
        return False

    def open(
        self, path: str, *, token: str | None = None, cookie: str | None = None, **options: object
    ) -> ConnectContext:
        """Return a connection to the server, for `async with`."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if cookie is not None:
            headers["Cookie"] = cookie
        changed = Options(handshake_timeout=30.0, ping_timeout=60.0, **options) if options else _OPTIONS  # type: ignore[arg-type]
        return connect(self.server.url + path, options=changed, headers=headers)

    def open_compressed(self, path: str) -> ConnectContext:
        """Return a connection to the server that compresses every second time."""
        return self.open(path, deflate=Deflate()) if self.rng.random() < 0.5 else self.open(path)

    def address(self) -> tuple[str, int]:
        """Return the host and the port of the server."""
        parts = urlsplit(self.server.url)
        return parts.hostname or "", parts.port or 0

    def new_name(self) -> str:
        """Return a name that no other visit has."""
        return f"{self._kind.name}-{self.rng.getrandbits(64):x}"


@dataclass(frozen=True)
class Kind:
    """A kind of visits.

    Args:
        name: its name in the results.
        visitors: how many visitors there are at the same time.
        pause: seconds between two visits, on average.
        visit: what one visit does.
        uses_store: whether it needs the Redis of sessions, tickets and limits.
    """

    name: str
    visitors: int
    pause: float
    visit: Callable[[Visitor], Awaitable[None]]
    uses_store: bool = False


def check(condition: object, text: str) -> None:
    """Raise a Violation if a condition is not true."""
    if not condition:
        raise Violation(text)


def check_left(code: int | None) -> None:
    """Check the close code of a connection that the client has closed with 1000.

    Raises:
        ConnectionClosed: the connection ended in another way.
    """
    if code != CloseCode.NORMAL:
        raise ConnectionClosed(f"the connection ended with code {code} while the client closed it", code=code)


def token_for(user: str, seconds: float) -> str:
    """Return a JWT for a user that is valid for some seconds."""
    now = time.time()
    claims = {"iss": ISSUER, "sub": user, "aud": AUDIENCE, "iat": now, "exp": now + seconds}
    signed = f"{_encoded(json.dumps({'alg': 'HS256'}).encode())}.{_encoded(json.dumps(claims).encode())}"
    return f"{signed}.{_encoded(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
