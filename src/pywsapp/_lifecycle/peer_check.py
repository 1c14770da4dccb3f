"""Checks of a peer about once a second: whether it is still there, and completes what it has begun."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pywsapp._lifecycle.keepalive import PING, Keepalive
from pywsapp._log_fields import log_fields

if TYPE_CHECKING:
    from pywsapp._lifecycle.state_machine import StateMachine
    from pywsapp._outbox.pings import Pings
    from pywsapp._protocol.websocket import WebSocket
    from pywsapp.options import Options

logger = logging.getLogger("pywsapp")


def check_peer(
    machine: StateMachine, ws: WebSocket, keepalive: Keepalive, pings: Pings | None, options: Options, now: float
) -> None:
    """Send a ping if it is due, and end an open connection whose peer takes too long.

    Args:
        machine: the state of the connection.
        ws: the protocol state.
        keepalive: decides what is due.
        pings: the pings that wait for their pongs; None if there were none.
        options: the limits.
        now: seconds of a monotonic clock.
    """
    is_read = not machine.pause_causes
    expired = ws.tick(now, paused=not is_read)
    if expired is not None:
        machine.peer_ended(expired, is_busy=False)
        return
    if is_read:
        due = keepalive.tick(now, options)
    else:
        stuck = None if machine.outbox.is_writable else machine.outbox.transport.get_write_buffer_size()
        due = keepalive.tick_unread(now, stuck, options)
    if due is PING:
        if pings is not None:
            pings.keepalive_sent()
        machine.outbox.transport.write(ws.ping(b""))
    elif due is not None:
        logger.debug(
            "%r timed out: %s", machine.conn, due, extra=log_fields("connection.timed_out", machine.conn, reason=due)
        )
        machine.drop(due)
