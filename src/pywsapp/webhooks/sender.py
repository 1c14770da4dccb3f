"""One webhook: its events in a bounded queue, and the task that sends them, one request at a time and in order."""

from __future__ import annotations

import json
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timezone
from itertools import count
from typing import NamedTuple

import anyio

from pywsapp._log_fields import log_fields
from pywsapp._trace_hooks import TraceHooks
from pywsapp._version import __version__
from pywsapp.topics.names import TopicPattern
from pywsapp.topics.occupancy.changes import Change, EventType, Kind
from pywsapp.webhooks.delivery import Answer, Attempts, Outcome, Unreachable, outcome_of
from pywsapp.webhooks.options import WebhookOptions
from pywsapp.webhooks.queue import EventQueue
from pywsapp.webhooks.signature import sign

logger = logging.getLogger("pywsapp")

#: Seconds of a pause, at most, while the App shuts down.
_HURRIED_SECONDS = 0.5
#: Seconds after an unexpected exception: one that comes again at once would keep the event loop busy for ever.
_FAULT_SECONDS = 1.0

#: Sends a request with header fields and a body; raises Unreachable.
Post = Callable[[Mapping[str, str], bytes], Awaitable[Answer]]
#: Opens a client for a URL, whose requests have a timeout.
OpenClient = Callable[[str, float], AbstractAsyncContextManager[Post]]


class WebhookStats(NamedTuple):
    """Numbers about a webhook in one process, counted from the start of the process.

    Args:
        delivered: events that the receiver has accepted.
        dropped: events that were dropped, because too many waited, the receiver refused them, it did not accept them
            in time, or the App has stopped.
        waiting: events that wait now, those of the request that is being sent included.
        failed_attempts: requests without an answer, or with one that asks for another attempt.
    """

    delivered: int
    dropped: int
    waiting: int
    failed_attempts: int


class Webhook:
    """A URL that gets events about topics and users. `App.webhook` returns it.

    Attributes:
        url: the URL without its query string.
    """

    __slots__ = ("_sender", "url")

    def __init__(self, sender: WebhookSender) -> None:
        self._sender = sender
        self.url = sender.target.shown

    def __repr__(self) -> str:
        return f"<Webhook {self.url}>"

    @property
    def stats(self) -> WebhookStats:
        """The numbers of this process. Only the process that reports sends events, see `App.on_occupied`."""
        return self._sender.stats


class Target(NamedTuple):
    """The settings of a webhook.

    Args:
        url: the URL.
        shown: the URL for logs, without its query string.
        keys: the keys that sign.
        events: the types of events.
        patterns: the patterns of topics.
    """

    url: str
    shown: str
    keys: tuple[bytes, ...]
    events: frozenset[EventType]
    patterns: Sequence[TopicPattern]


class WebhookSender:
    """Sends the events of one webhook. `App.webhook` creates it, and the occupancy service runs it.

    Args:
        target: what to send, and where.
        options: the limits.
        open_client: opens an HTTP client.

    Attributes:
        trace_hooks: traces the requests; None without `pywsapp.telemetry`.
    """

    def __init__(self, target: Target, options: WebhookOptions, open_client: OpenClient) -> None:
        self.target = target
        self._options = options
        self.trace_hooks: TraceHooks | None = None
        self._open_client = open_client
        self._queue = EventQueue(options)
        self._prefix = secrets.token_hex(8)
        self._event_numbers, self._request_numbers = count(1), count(1)
        self._delivered = self._dropped = self._failed = 0
        self._is_gone = False
        self._work: anyio.Event | None = None  # while the task waits for an event
        self._idle: anyio.Event | None = None  # while `flush` waits for the end of the queue
        self._hurry = anyio.Event()

    @property
    def stats(self) -> WebhookStats:
        """The numbers so far."""
        return WebhookStats(self._delivered, self._dropped, len(self._queue), self._failed)

    # -- what the occupancy service calls ----------------------------------------------------------------------------

    def covers(self, kind: Kind, name: str | None = None) -> bool:
        """Return whether changes of a topic, of any topic (without a name), or of users are wanted."""
        if not any(event.startswith(f"{kind.value}_") for event in self.target.events):
            return False
        return name is None or kind is Kind.USER or any(pattern.matches(name) for pattern in self.target.patterns)

    def add(self, change: Change) -> None:
        """Queue the event of a change, if it is wanted. Does not block."""
        kind, name = change.subject
        if change.type not in self.target.events or not self.covers(kind, name):
            return
        if self._is_gone:
            self._dropped += 1
            return
        event_id = f"evt_{self._prefix}_{next(self._event_numbers)}"
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = {"id": event_id, "type": change.type, "time": now, kind.value: name}
        dropped = self._queue.add(json.dumps(event, separators=(",", ":")).encode())
        self._drop(dropped, "too many wait for the receiver")
        if self._work is not None:
            self._work.set()

    async def run(self) -> None:
        """Send events until cancelled."""
        self._hurry, self._work, self._is_gone = anyio.Event(), None, False
        while True:
            try:
                async with self._open_client(self.target.url, self._options.timeout) as post:
                    await self._send_all(post)
            except Exception:
                logger.exception(
                    "webhook %s failed",
                    self.target.shown,
                    extra=log_fields("webhook.failed", webhook=self.target.shown),
                )
                self._drop(len(self._queue.take()), "of an unexpected exception")
                self._queue.release()
                await self._sleep(_FAULT_SECONDS)

    async def flush(self) -> None:
        """Wait until the queue is empty, for `WebhookOptions.flush_seconds` at most; then drop the rest."""
        self._hurry.set()
        try:
            with anyio.move_on_after(self._options.flush_seconds):
                while self._queue:
                    self._idle = anyio.Event()
                    await self._idle.wait()
        finally:  # also when the app does not wait so long
            self._drop(self._queue.clear(), "the app has stopped")

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _send_all(self, post: Post) -> None:
        while True:
            while not self._queue:  # an event that is dropped at once wakes the task too
                if self._idle is not None:
                    self._idle.set()
                self._work = anyio.Event()
                await self._work.wait()
                self._work = None
            await self._deliver(post, self._queue.take())
            self._queue.release()

    async def _deliver(self, post: Post, events: Sequence[bytes]) -> None:
        """Send one request until it is delivered or dropped."""
        body = b'{"events":[' + b",".join(events) + b"]}"
        message_id = f"msg_{self._prefix}_{next(self._request_numbers)}"
        attempts = Attempts(self._options, anyio.current_time(), random.uniform)
        while True:
            outcome, answer, reason = await self._attempt(post, message_id, body)
            if outcome is not Outcome.FAILED:
                break
            self._failed += 1
            pause = attempts.pause(anyio.current_time(), answer, time.time())
            if pause is None:
                self._drop(len(events), f"{attempts.failed} attempts have failed: {reason}")
                return
            self._log_failure(attempts.failed, reason, pause)
            await self._sleep(pause)
        if outcome is Outcome.DELIVERED:
            self._delivered += len(events)
            if attempts.failed:
                logger.info(
                    "webhook %s: delivered after %d failed attempts",
                    self.target.shown,
                    attempts.failed,
                    extra=log_fields("webhook.delivered", webhook=self.target.shown, count=attempts.failed),
                )
        elif outcome is Outcome.REFUSED:
            self._drop(len(events), f"the receiver refused them with {reason}")
        else:
            self._end()

    async def _attempt(self, post: Post, message_id: str, body: bytes) -> tuple[Outcome, Answer | None, str]:
        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": f"pywsapp/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self.target.keys, message_id, timestamp, body),
        }
        if self.trace_hooks is not None:
            post = self.trace_hooks.around_post(self.target.shown, post)
        try:
            answer = await post(headers, body)
        except Unreachable as exc:
            return Outcome.FAILED, None, str(exc)
        return outcome_of(answer.status), answer, f"status {answer.status}"

    async def _sleep(self, pause: float) -> None:
        if self._hurry.is_set():
            await anyio.sleep(min(pause, _HURRIED_SECONDS))
        else:
            with anyio.move_on_after(pause):
                await self._hurry.wait()

    def _end(self) -> None:
        self._is_gone = True
        dropped = self._queue.clear()
        self._dropped += dropped
        logger.error(
            "webhook %s answered with status 410: it gets no more events; dropped %d events",
            self.target.shown,
            dropped,
            extra=log_fields("webhook.gone", webhook=self.target.shown, count=dropped),
        )

    def _log_failure(self, failed: int, reason: str, pause: float) -> None:
        if failed & (failed - 1) == 0:  # at 1, 2, 4, 8, ...
            logger.warning(
                "webhook %s failed %d times: %s; trying again in %.1f s, %d events wait",
                self.target.shown,
                failed,
                reason,
                pause,
                len(self._queue),
                extra=log_fields(
                    "webhook.retried", webhook=self.target.shown, reason=reason, retry_seconds=pause, count=failed
                ),
            )

    def _drop(self, count: int, reason: str) -> None:
        before = self._dropped
        self._dropped += count
        if self._dropped.bit_length() > before.bit_length():  # at about 1, 2, 4, 8, ...
            logger.warning(
                "webhook %s dropped events, because %s (%d so far)",
                self.target.shown,
                reason,
                self._dropped,
                extra=log_fields(
                    "webhook.events_dropped", webhook=self.target.shown, reason=reason, count=self._dropped
                ),
            )
