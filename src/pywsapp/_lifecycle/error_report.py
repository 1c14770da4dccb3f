"""Calling `on_error` of a component for what another of its hooks raised."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from pywsapp._lifecycle.cancellation import raise_if_cancelled, raise_if_exiting
from pywsapp._lifecycle.mistakes import explain
from pywsapp._log_fields import log_fields
from pywsapp.close_codes import CloseCode
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection

logger = logging.getLogger("pywsapp")


def report_error(component: MessageComponent, conn: Connection, exc: BaseException) -> Awaitable[None] | None:
    """Call `on_error`, or do what it does by default.

    Returns:
        what must still be awaited, which raises nothing; None if there is nothing.

    Raises:
        KeyboardInterrupt, SystemExit: `exc` itself, if it is one.
    """
    raise_if_exiting(exc)
    if not isinstance(exc, Exception):
        _give_up(component, conn, "%s failed for %r", exc)
        return None
    explain(component, exc)
    try:
        result: Any = component.on_error(conn, exc)
    except BaseException as second:
        raise_if_exiting(second)
        _give_up(component, conn, "%s.on_error itself failed for %r", second)
        return None
    return _await_on_error(component, conn, result) if isinstance(result, Awaitable) else None


async def _await_on_error(component: MessageComponent, conn: Connection, result: Awaitable[Any]) -> None:
    try:
        await result
    except BaseException as second:
        raise_if_cancelled(second)
        _give_up(component, conn, "%s.on_error itself failed for %r", second)


def _give_up(component: MessageComponent, conn: Connection, what: str, exc: BaseException) -> None:
    logger.error(
        what,
        type(component).__name__,
        conn,
        exc_info=exc,
        extra=log_fields("handler.failed", conn, component=type(component).__name__, error=type(exc).__name__),
    )
    conn.close(CloseCode.INTERNAL_ERROR, "internal error")


async def await_reported(component: MessageComponent, conn: Connection, result: Awaitable[Any]) -> None:
    """Await a handler; report what it raises."""
    try:
        await result
    except BaseException as exc:
        raise_if_cancelled(exc)
        last = report_error(component, conn, exc)
        if last is not None:
            await last
