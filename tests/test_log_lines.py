"""No text of a peer, a server or another process can add a line to the log, or control a terminal that shows it."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.serving import Pipe
from support.topic_bench import Bench, failing, failure_of, relaying
from support.topic_rooms import Rooms, running
from support.user_rooms import Members

from pywsapp import Connection, InvalidCredentials, MessageComponent, Refuse, Request, TopicError
from pywsapp.auth.first_message import FirstMessage
from pywsapp.auth.jwt import Jwks
from pywsapp.auth.tickets import MemoryTicketStore, TicketIssuer
from pywsapp.brokers.base import PartlyRefused, Position
from pywsapp.brokers.envelope import Envelope, encode_envelope
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.brokers.outage import OutageLog
from pywsapp.brokers.relay import Relay
from pywsapp.topics.history.rules import HistoryRule
from pywsapp.topics.names import TopicPattern
from pywsapp.topics.users.events import USERS_TOPIC

pytestmark = [pytest.mark.anyio, pytest.mark.once]
SOURCE = Path(__file__).parent.parent / "src" / "pywsapp"
#: A line break, a colour, a C1 control character, a line separator, and text from right to left.
HOSTILE = "no\r\n2026-11-30 ERROR FAKE \x1b[31m \x9b31m \u2028 \u202e"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "pywsapp")
    return caplog


def check(log: pytest.LogCaptureFixture, count: int = 1) -> None:
    """Check that so many lines show the text, and that all lines are single lines."""
    assert len([line for line in log.messages if "FAKE" in line]) == count
    assert [line for line in log.messages if not line.isprintable()] == []


class Refusing(MessageComponent):
    """Raises an exception with the text of each message."""

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def on_message(self, conn: Connection, message: Any) -> None:
        raise self.kind(message)


@pytest.mark.parametrize("kind", [TopicError, InvalidCredentials])
async def test_what_a_component_says_of_a_message(kind: type[Exception], log: pytest.LogCaptureFixture) -> None:
    pipe = Pipe(Refusing(kind))
    pipe.send(HOSTILE)
    assert pipe.codes() == [1008 if kind is TopicError else 4401]
    check(log)


async def test_what_is_said_of_a_token_in_a_first_message(log: pytest.LogCaptureFixture) -> None:
    def verify(token: str) -> Any:
        raise InvalidCredentials(f"{token} is not known")

    middleware = FirstMessage(MessageComponent(), verify)
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(middleware, tasks=tasks)
        pipe.send(HOSTILE)
        await pipe.run_until_blocked()
        assert pipe.codes() == [4401]
        tasks.cancel_scope.cancel()
    check(log)


async def test_the_reason_of_a_disconnect_of_another_process(log: pytest.LogCaptureFixture) -> None:
    members = Members(broker := Bench())
    event = {"users": "disconnect", "key": "ana", "code": 4000, "reason": HOSTILE}
    async with running(members) as clients:
        client, _ = await members.enter(clients)
        for connection in list(broker.connections):
            connection.deliver(USERS_TOPIC, encode_envelope(Envelope(USERS_TOPIC, None, "another", event)), None)
        assert await client.close() == 4000
    check(log, 2)  # also the line about the end of the connection


def test_the_reason_of_an_outage(log: pytest.LogCaptureFixture) -> None:
    outages = OutageLog(MemoryBroker())
    outages.note_lost(f"ResponseError: {HOSTILE}", 0, 0.0)
    outages.note_lost(f"ResponseError: {HOSTILE}", 0, 100.0)
    check(log, 2)


async def test_why_a_broker_refuses_a_message(log: pytest.LogCaptureFixture) -> None:
    broker = Bench()
    broker.before["publish"] = failing(PartlyRefused({0: HOSTILE}), 1)
    relay = Relay(broker, lambda topic, data, position: None)
    async with relaying(relay):
        assert "refused the message" in await failure_of(relay.publish("t", b"x"))
    check(log)


async def test_why_a_ticket_store_fails(log: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryTicketStore):
        async def take(self, key: str) -> bytes | None:
            raise ConnectionError(HOSTILE)

    with pytest.raises(Refuse):
        await TicketIssuer(Failing()).redeem("ticket", Request())
    check(log)


async def test_why_keys_cannot_be_loaded(log: pytest.LogCaptureFixture) -> None:
    def load() -> Any:
        raise ValueError(HOSTILE)

    with pytest.raises(Refuse):
        await Jwks(load).find(None, "RS256")
    check(log)


async def test_positions_of_a_history(log: pytest.LogCaptureFixture) -> None:
    def wrap(publication: Any) -> Any:
        raise ValueError

    position = Position(HOSTILE, 17)
    assert HistoryRule(TopicPattern("*"), 10, 60, wrap).prepare("t", position, "x") is None
    Rooms().app.topics.history._report_lost("t", position, "there are too many")
    check(log, 2)


#: Texts that are written as they are, and where they come from.
TRUSTED = {
    "_lifecycle/event_stream.py exc": "BrokerUnavailable, which shows what others say by repr",
    "_lifecycle/state_machine.py event.reason": "constants of the protocol",
    "_limits/shared_budget.py reason": "one_line, above",
    "_process/connection_counts.py exc": "the operating system",
    "_process/worker_process.py exc": "the operating system",
    "_server/server.py exc": "the operating system",
    "_server/streams.py exc": "the operating system",
    "_server/tls_reload.py reason": "the operating system and OpenSSL, about files of the program",
    "auth/expiry.py reason": "constants",
    "brokers/local/router.py exc": "BusError, which shows content by repr",
    "brokers/outage.py reason": "one_line, above",
    "brokers/drop_log.py reason": "constants",
    "middleware/address_file.py exc": "ConfigurationError, which shows lines of the file by repr",
    "sessions/outage.py reason": "one_line, in _reason",
    "topics/history/service.py reason": "constants",
    "topics/users/service.py exc": "ConfigurationError about a type",
    "webhooks/sender.py reason": "constants and a status, or one_line in with_httpx",
}
NAMES = {"exc", "reason", "body", "position"}


def suspects(path: Path) -> list[str]:
    """Return the arguments of log lines that can be text of others and are written with %s as they are."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if not is_call or not ast.unparse(node.func.value).endswith("logger"):  # type: ignore[attr-defined]
            continue
        text, *arguments = node.args  # type: ignore[attr-defined]
        conversions = re.findall(r"%[^%a-z]*([a-z])", str(text.value)) if isinstance(text, ast.Constant) else []
        for argument, conversion in zip(arguments, conversions or "s" * len(arguments), strict=False):
            name = getattr(argument, "id", getattr(argument, "attr", ""))
            if isinstance(argument, (ast.Name, ast.Attribute)) and name in NAMES and conversion == "s":
                found.append(f"{path.relative_to(SOURCE).as_posix()} {ast.unparse(argument)}")
    return found


def test_text_of_others_is_made_one_line_where_it_is_logged() -> None:
    found = {suspect for path in SOURCE.rglob("*.py") for suspect in suspects(path)}
    assert found == set(TRUSTED), "write one_line(...) around it, or say here where the text comes from"
