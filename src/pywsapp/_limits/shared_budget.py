"""Budgets that all processes share: token buckets in Redis, from which each process takes tokens in leases.

One Lua script takes the tokens, in one step and by the clock of Redis. It gives at least what a message needs, and as
many more as `LEASE_SECONDS` of the rate if they are there. A process spends its lease without asking, so most messages
do not wait for Redis. At any time a process has at most one such lease, and by so much a client can exceed its burst.

Pings and pongs do not wait for Redis: the protocol answers them at once. Each process counts them for itself, and asks
Redis in the background for those that were above its lease. When Redis answers that the client is above the limit, the
process answers no pings until the rate has earned those that it has answered.

When Redis is unavailable, or takes longer than `_TIMEOUT`, each process counts for itself until Redis answers again.
"""

from __future__ import annotations

import hashlib
import logging
import math
from time import monotonic
from typing import Any, Protocol

import anyio

from pywsapp._extras import import_extra
from pywsapp._http_text import one_line
from pywsapp._limits.budget import MessageBudget, Rates
from pywsapp._log_fields import log_fields

logger = logging.getLogger("pywsapp")

#: The tokens of so many seconds are taken at once. It is the time for which a client can exceed its rate by a lease.
LEASE_SECONDS = 0.1
#: Seconds that a call of Redis may take, and seconds between two attempts while it is unavailable.
_TIMEOUT = 1.0
_RETRY_SECONDS = 1.0
#: At least so much of a burst stays for the other processes.
_LEASED_SHARE = 4

#: ARGV: "take" or "reserve", then for each bucket its field, its rate, its burst, what is needed and what is wanted.
_SCRIPT = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local at = tonumber(redis.call('HGET', KEYS[1], 'at') or now)
local wait, all = 0, {}
for i = 2, #ARGV, 5 do
  local rate, burst, need = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local tokens = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or burst)
  tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
  if tokens + 0.001 < need then wait = math.max(wait, (need - tokens) / rate) end
  all[#all + 1] = {ARGV[i], tokens, rate, burst, need, tonumber(ARGV[i + 4])}
end
local reply = {string.format('%.6f', wait)}
if wait > 0 and ARGV[1] == 'take' then return reply end
local full = 0
for _, bucket in ipairs(all) do
  local name, tokens, rate, burst, need, want = unpack(bucket)
  local given = math.max(need, math.min(want, tokens))
  tokens = tokens - given
  full = math.max(full, (burst - tokens) / rate)
  redis.call('HSET', KEYS[1], name, string.format('%.6f', tokens))
  reply[#reply + 1] = string.format('%.6f', given)
end
redis.call('HSET', KEYS[1], 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(full * 1000) + 1000)
return reply
"""
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Client(Protocol):
    """A client of Redis."""

    name: str

    async def execute(self, *commands: Any) -> list[Any]:
        """Send commands, and return their replies."""

    async def aclose(self) -> None:
        """Close the connection."""


class SharedBuckets:
    """The token buckets of one limit in Redis.

    Args:
        url: the URL of the server.
        name: names the limit; processes that use the same name share it.
        rates: the rates.

    Attributes:
        rates: the rates.

    Raises:
        ConfigurationError: the URL is invalid, or redis-py is not installed.
    """

    def __init__(self, url: str, name: str, rates: Rates) -> None:
        module = import_extra("pywsapp._clients.redis_client", "redis")
        self.rates = rates
        self._client: Client = module.RedisClient(url)
        self._name = name
        self._down_until: float | None = None

    def is_down(self, now: float) -> bool:
        """Return whether Redis was unavailable a moment ago."""
        return self._down_until is not None and now < self._down_until

    def fill_seconds(self) -> float:
        """Return the seconds in which an empty bucket fills up."""
        rates = self.rates
        buckets = (
            (rates.messages, rates.messages_burst),
            (rates.bytes, rates.bytes_burst),
            (rates.control_frames, rates.control_frames_burst),
        )
        return max(burst / rate for rate, burst in buckets if rate is not None)

    async def ask(self, key: str, size: int, *, reserve: bool) -> tuple[float, float, float] | None:
        """Request the tokens for a message of a client, and a lease.

        Args:
            key: names the client.
            size: bytes of the message.
            reserve: whether to take tokens that are not there yet.

        Returns:
            the seconds until the message is within the limits, and the messages and bytes that were given; None if
            Redis is unavailable.
        """
        buckets: list[str | float] = []
        rates = self.rates
        if rates.messages is not None:
            buckets += _bucket("messages", rates.messages, rates.messages_burst, 1)
        if rates.bytes is not None:
            buckets += _bucket("bytes", rates.bytes, rates.bytes_burst, size)
        reply = await self._ask(f"pywsapp:limit:{self._name}:{key}", "reserve" if reserve else "take", buckets)
        if reply is None:
            return None
        seconds, *given = reply
        if not given:
            return seconds, 0.0, 0.0
        return seconds, given[0] if rates.messages is not None else 0.0, given[-1] if rates.bytes is not None else 0.0

    async def ask_for_control_frames(self, key: str, number: float) -> tuple[float, float] | None:
        """Request the tokens for pings and pongs of a client that were answered already, and a lease.

        Args:
            key: names the client.
            number: how many.

        Returns:
            the seconds until they are within the limit, and how many were given; None if Redis is unavailable.
        """
        rates = self.rates
        assert rates.control_frames is not None
        bucket = _bucket("control_frames", rates.control_frames, rates.control_frames_burst, number)
        reply = await self._ask(f"pywsapp:control:{self._name}:{key}", "reserve", bucket)
        return None if reply is None else (reply[0], reply[1])

    async def _ask(self, redis_key: str, mode: str, buckets: list[str | float]) -> list[float] | None:
        """Call the script; return its reply, or None if Redis is unavailable."""
        arguments = (1, redis_key, mode, *map(str, buckets))
        if self._down_until is not None:  # this message tries Redis again, and no other one waits for it meanwhile
            self._down_until = monotonic() + _TIMEOUT + _RETRY_SECONDS
        try:
            with anyio.fail_after(_TIMEOUT):
                reply = await self._run(arguments)
        except Exception as exc:  # of redis-py, of the operating system, or of our own time limit
            self._note_down(exc)
            return None
        self._note_up()
        return [float(number) for number in reply]

    async def _run(self, arguments: tuple[Any, ...]) -> list[bytes]:
        try:
            (reply,) = await self._client.execute(("EVALSHA", _SHA, *arguments))
        except Exception as exc:
            if not str(exc).startswith(("NOSCRIPT", "No matching script")):
                raise
            (reply,) = await self._client.execute(("EVAL", _SCRIPT, *arguments))
        assert isinstance(reply, list)
        return reply

    def _note_down(self, exc: Exception) -> None:
        if self._down_until is None:
            reason = one_line(str(exc)) or type(exc).__name__
            logger.error(
                "%s is unavailable (%s); RateLimit %r counts for each process meanwhile",
                self._client.name,
                reason,
                self._name,
                extra=log_fields(
                    "rate_limit.store_unavailable", store=self._client.name, limit=self._name, error=reason
                ),
            )
        self._down_until = monotonic() + _RETRY_SECONDS

    def _note_up(self) -> None:
        if self._down_until is not None:
            self._down_until = None
            logger.warning(
                "%s is available again for RateLimit %r",
                self._client.name,
                self._name,
                extra=log_fields("rate_limit.store_available", store=self._client.name, limit=self._name),
            )

    async def aclose(self) -> None:
        """Close the connection; a later message makes a new one."""
        await self._client.aclose()


def _bucket(name: str, rate: float, burst: float, need: float) -> list[str | float]:
    return [name, rate, burst, need, max(need, min(rate * LEASE_SECONDS, burst / _LEASED_SHARE))]


class SharedBudget:
    """The budget of one client in all processes.

    Args:
        buckets: the buckets in Redis.
        key: names the client.
        now: seconds of the monotonic clock.

    Attributes:
        connections: how many connections use it; the table counts them.
    """

    __slots__ = (
        "_asked_at",
        "_asks",
        "_buckets",
        "_bytes",
        "_control_frames",
        "_control_frames_refused",
        "_key",
        "_lock",
        "_messages",
        "_own",
        "_refused",
        "connections",
    )

    def __init__(self, buckets: SharedBuckets, key: str, now: float) -> None:
        self.connections = 0
        self._buckets = buckets
        self._key = key
        self._messages = 0.0 if buckets.rates.messages is not None else math.inf  # the rest of the lease
        self._bytes = 0.0 if buckets.rates.bytes is not None else math.inf
        self._own = MessageBudget(buckets.rates, now)  # counts while Redis is unavailable
        self._refused = (-math.inf, 0)  # until when Redis gives nothing for messages of this size and larger ones
        self._control_frames = 0.0  # the rest of the lease; below 0, Redis does not know of them yet
        self._control_frames_refused = -math.inf  # until when pings are not answered
        self._asks = False  # for control frames
        self._asked_at = -math.inf
        self._lock: anyio.Lock | None = None

    def take(self, size: int, now: float) -> bool:
        """Count a message if the lease has its tokens, or if Redis is unavailable and this process allows it."""
        if self._buckets.is_down(now):
            return self._own.take(size, now)
        if self._messages >= 1 and self._bytes >= size:
            self._messages -= 1
            self._bytes -= size
            return True
        return False

    def must_ask(self, size: int, now: float) -> bool:
        """Return whether only Redis can say what happens with a message for which `take` has returned False."""
        until, refused_size = self._refused
        return not (self._buckets.is_down(now) or (now < until and size >= refused_size))

    def reserve(self, size: int, now: float) -> float:
        """Count a message in this process, in any case, because Redis is unavailable; see `MessageBudget.reserve`."""
        return self._own.reserve(size, now)

    async def ask(self, size: int, *, reserve: bool) -> float:
        """Request tokens for a message from Redis, unless another connection of the client has got a lease meanwhile.

        Args:
            size: bytes of the message.
            reserve: whether to count it in any case.

        Returns:
            the seconds until it is within the limits; 0 if it is, and counted.
        """
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            now = monotonic()
            if self.take(size, now):
                return 0.0
            if self._buckets.is_down(now):
                return self._own_answer(size, now, reserve=reserve)
            answer = await self._buckets.ask(self._key, size, reserve=reserve)
            self._asked_at = now = monotonic()
            if answer is None:
                return self._own_answer(size, now, reserve=reserve)
            seconds, messages, in_bytes = answer
            if seconds > 0 and not reserve:
                self._refused = (now + seconds, size)
            else:
                self._messages += max(0.0, messages - 1)
                self._bytes += max(0.0, in_bytes - size)
            return seconds

    def _own_answer(self, size: int, now: float, *, reserve: bool) -> float:
        if reserve:
            return self._own.reserve(size, now)
        return 0.0 if self._own.take(size, now) else math.inf

    def take_control_frame(self, now: float) -> bool:
        """Count a ping or pong, unless it is above the limit as far as this process knows; return whether it is not."""
        if now < self._control_frames_refused or not self._own.take_control_frame(now):
            return False
        if not self._buckets.is_down(now):
            self._control_frames -= 1
        return True

    def begin_to_ask(self, now: float) -> bool:
        """Return whether `ask_for_control_frames` must be called now, once."""
        if self._asks or self._control_frames >= 0 or self._buckets.is_down(now):
            return False
        self._asks = True
        return True

    async def ask_for_control_frames(self) -> None:
        """Report to Redis the pings and pongs that were answered, and learn whether they are within the limit."""
        try:
            answer = await self._buckets.ask_for_control_frames(self._key, -self._control_frames)
        finally:
            self._asks = False
        if answer is None:
            self._control_frames = 0.0
            return
        seconds, given = answer
        self._control_frames += given
        self._asked_at = monotonic()
        if seconds > 0:
            self._control_frames_refused = self._asked_at + seconds

    def give_back(self, size: int) -> None:
        """Undo `reserve`; what Redis has counted stays counted."""
        self._own.give_back(size)

    def is_full(self, now: float) -> bool:
        """Return whether Redis has forgotten what this client has sent, so that the lease does not matter."""
        return now - self._asked_at >= self._buckets.fill_seconds() and self._own.is_full(now)
