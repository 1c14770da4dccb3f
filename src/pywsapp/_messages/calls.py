"""Calls to the peer that wait for their replies: `await conn.call("confirm", {"text": "Delete it?"})`.

    {"id": 1, "method": "confirm", "params": {"text": "Delete it?"}}
    {"id": 1, "result": true}

A handler can await a call of its own connection. Messages that arrive meanwhile wait in the queue of the connection;
replies pass it. A reply can be behind more messages than the queue holds, so the queue is longer while calls wait, and
the waiting calls read on.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from pywsapp.codecs.kinds import TAG_FIELD
from pywsapp.exceptions import CallError, CallTimeout, ConnectionClosed, InvalidMessage

if TYPE_CHECKING:
    from pywsapp.codecs.base import Codec
    from pywsapp.connection import Connection

#: Characters of the code and the message of an error of the peer.
_MAX_CODE, _MAX_MESSAGE = 100, 1000


class _Call:
    """A call that waits.

    Attributes:
        reply: the reply; None before it comes.
        event: wakes the task that waits.
    """

    __slots__ = ("event", "reply")

    def __init__(self) -> None:
        self.reply: dict[str, Any] | None = None
        self.event = anyio.Event()


class Calls:
    """The calls of one connection that wait for their replies.

    Args:
        codec: the codec of the connection.
        limit: how many calls may wait at the same time.

    Raises:
        ConfigurationError: the codec cannot read objects without a class.
    """

    __slots__ = ("_codec", "_decode", "_ended", "_ids", "_last", "_limit", "_pending")

    def __init__(self, codec: Codec, limit: int) -> None:
        self._codec = codec
        self._decode = codec.decoder(Any)
        self._limit = limit
        self._ids = count(1)
        self._last = 0
        self._pending: dict[int, _Call] = {}
        self._ended = False

    async def call(self, conn: Connection, method: str, params: Any, seconds: float | None, result_type: Any) -> Any:
        """Call the peer and wait for the result; see `Connection.call`."""
        convert: Callable[[Any], Any] | None = None if result_type is Any else self._codec.converter(result_type)
        if len(self._pending) >= self._limit:
            raise CallError("too_many_calls", f"{self._limit} calls of this connection wait for a reply already")
        call_id = self._last = next(self._ids)
        conn.send({"id": call_id, "method": method, "params": params})
        driver = conn._driver
        if driver is None or not conn.is_open or self._ended:
            await anyio.lowlevel.checkpoint()
            raise _closed(conn)
        call = self._pending[call_id] = _Call()
        if len(self._pending) == 1:
            driver.wait_for_replies(self, more=True)
        try:
            with anyio.move_on_after(seconds):
                await anyio.lowlevel.checkpoint()  # what calls this handler has returned from now on
                while call.reply is None and not self._ended:
                    driver.read_replies()
                    await call.event.wait()
                    call.event = anyio.Event()
        finally:
            self._pending.pop(call_id, None)
            if not self._pending and conn._driver is not None:
                driver.wait_for_replies(self, more=False)
        if call.reply is not None:
            return _result(call.reply, convert)
        if self._ended:
            raise _closed(conn)
        raise CallTimeout(f"the peer did not answer {method!r} within {seconds:g} seconds")

    def take(self, message: str | bytes) -> bool:
        """Return whether a message is the reply to a call; the call then gets it. Late replies are dropped."""
        try:
            value = self._decode(message)
        except InvalidMessage:
            return False
        if type(value) is not dict or "method" in value or TAG_FIELD in value:
            return False
        call_id = value.get("id")
        if ("result" not in value and "error" not in value) or type(call_id) is not int:
            return False
        call = self._pending.get(call_id)
        if call is not None and call.reply is None:
            call.reply = value
            call.event.set()
        return 0 < call_id <= self._last

    def wake_one(self) -> None:
        """Have one of the waiting calls read on."""
        call = next(iter(self._pending.values()), None)
        if call is not None:
            call.event.set()

    def end(self) -> None:
        """Fail all calls, because no reply will come any more."""
        self._ended = True
        for call in self._pending.values():
            call.event.set()


def _result(reply: dict[str, Any], convert: Callable[[Any], Any] | None) -> Any:
    error = reply.get("error")
    if error is not None:
        details = error if isinstance(error, dict) else {"message": error}
        code, message = details.get("code", "error"), details.get("message", "")
        raise CallError(str(code)[:_MAX_CODE], str(message)[:_MAX_MESSAGE])
    result = reply.get("result")
    if convert is None:
        return result
    try:
        return convert(result)
    except InvalidMessage as exc:
        raise InvalidMessage(exc.reason, f"$.result{exc.path[1:]}") from None


def _closed(conn: Connection) -> ConnectionClosed:
    return ConnectionClosed(
        "the connection ended before the call was answered", code=conn.close_code, reason=conn.close_reason
    )
