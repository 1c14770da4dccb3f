"""`check_middleware`, on the middleware of the library and on middleware with a mistake each."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pywsapp import (
    Accept,
    ComponentMiddleware,
    Connection,
    HandshakeMiddleware,
    IpBlackList,
    OriginCheck,
    RateLimit,
    Refuse,
    Request,
    Response,
    SessionMiddleware,
)
from pywsapp.testing import MIDDLEWARE_CHECKS, check_middleware
from pywsapp.testing.middleware import MakeMiddleware

pytestmark = pytest.mark.anyio

GOOD: dict[str, MakeMiddleware] = {
    "HandshakeMiddleware": HandshakeMiddleware,
    "ComponentMiddleware": ComponentMiddleware,
    "IpBlackList": IpBlackList,
    "OriginCheck": lambda component: OriginCheck(component, ["*"]),
    "RateLimit": lambda component: RateLimit(component, messages_per_second=100),
    "SessionMiddleware": lambda component: SessionMiddleware(component, "memory"),
}


on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@on_asyncio
@pytest.mark.parametrize("name", GOOD)
async def test_the_middleware_of_the_library(name: str) -> None:
    await check_middleware(GOOD[name])


class Swallows(ComponentMiddleware):
    def on_handshake(self, request: Request) -> Any:
        try:
            return super().on_handshake(request)
        except Refuse:
            return Accept(component=self)


class ClosesTwice(ComponentMiddleware):
    def on_close(self, conn: Connection) -> Any:
        super().on_close(conn)
        return super().on_close(conn)


class Forgets(ComponentMiddleware):
    def on_message(self, conn: Connection, message: Any) -> None:
        super().on_message(conn, message)  # what it returns is not awaited


class Handles(ComponentMiddleware):
    def on_error(self, conn: Connection, exc: Exception) -> None: ...


class Drops(ComponentMiddleware):
    def on_message(self, conn: Connection, message: Any) -> None: ...


class OwnAccept(ComponentMiddleware):
    def on_handshake(self, request: Request) -> Accept:
        around = copy.copy(self)
        around.inner = self.component  # type: ignore[assignment]
        return Accept(component=around)


class OwnPage(ComponentMiddleware):
    def on_request(self, request: Request) -> Response:
        return Response("another page")


BAD: dict[str, type[ComponentMiddleware]] = {
    "a_refusal_of_the_component_inside_passes": Swallows,
    "on_close_is_called_once_after_a_lost_connection": ClosesTwice,
    "async_handlers_are_awaited_one_after_the_other": Forgets,
    "exceptions_reach_on_error_of_the_component_inside": Handles,
    "the_hooks_of_the_component_inside_are_called_once_and_in_order": Drops,
    "the_guard_of_the_component_inside_is_called": OwnAccept,
    "a_plain_request_reaches_the_component_inside": OwnPage,
}


@on_asyncio
@pytest.mark.parametrize("rule", BAD)
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_mistake_is_found(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywsapp.testing.middleware._PATIENCE", 0.2)
    with pytest.raises(AssertionError):
        await MIDDLEWARE_CHECKS[rule](BAD[rule])


@on_asyncio
async def test_a_failure_begins_with_the_rule() -> None:
    with pytest.raises(AssertionError, match=r"^a plain request reaches the component inside: the answer is"):
        await check_middleware(OwnPage)


async def test_a_component_passes_as_a_middleware_that_does_nothing() -> None:
    assert len(MIDDLEWARE_CHECKS) == 13
    for check in MIDDLEWARE_CHECKS.values():
        await check(lambda component: component)
