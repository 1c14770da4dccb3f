"""The exceptions form one tree, and carry what a handler needs."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from pywsapp import _public
from pywsapp import exceptions as errors
from pywsapp.exceptions import (
    ConfigurationError,
    ConnectionClosed,
    HandshakeError,
    InvalidCredentials,
    OutcomeUnknown,
    ProtocolError,
    PywsappError,
    Refuse,
)


def test_every_exception_is_public_and_in_the_tree() -> None:
    found = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BaseException)}
    public = {value for value in vars(_public).values() if inspect.isclass(value) and issubclass(value, BaseException)}
    assert found == {*public, ProtocolError}  # which reaches no program
    assert {PywsappError, ConfigurationError} < public
    assert all(issubclass(kind, PywsappError) for kind in found)
    assert issubclass(ConfigurationError, ValueError)
    assert not issubclass(PywsappError, (OSError, ValueError))


def test_invalid_credentials_are_a_refusal() -> None:
    refusal = InvalidCredentials("log in", "Bearer")
    assert (refusal.status, refusal.headers, refusal.body) == (401, (("WWW-Authenticate", "Bearer"),), "log in")
    assert InvalidCredentials().headers == ()


@pytest.mark.parametrize("status", [300, 308, 400, 599])
def test_statuses_of_a_refusal(status: int) -> None:
    assert Refuse(status).status == status


@pytest.mark.parametrize("status", [200, 101, 299, 600, 0, "403", 403.0, None])
def test_invalid_statuses_of_a_refusal(status: Any) -> None:
    with pytest.raises(ConfigurationError, match="Refuse takes an HTTP status from 300 to 599"):
        Refuse(status)


def test_headers_of_a_refusal_can_be_a_mapping_or_pairs() -> None:
    assert Refuse(401).headers == ()
    assert Refuse(401, {"WWW-Authenticate": "Bearer"}).headers == (("WWW-Authenticate", "Bearer"),)
    assert Refuse(401, [("A", "1"), ("A", "2")]).headers == (("A", "1"), ("A", "2"))
    assert Refuse(401, (item for item in [("A", "1")])).headers == (("A", "1"),)


@pytest.mark.parametrize(
    ("body", "text"),
    [(None, "403"), ("", "403"), ("no entry", "403 no entry"), (b"bytes \xff", "403 bytes \ufffd")],
)
def test_a_refusal_in_a_log(body: str | bytes | None, text: str) -> None:
    assert str(Refuse(403, body=body)) == text


def test_a_handshake_error_has_the_status_if_there_was_one() -> None:
    assert HandshakeError("no answer").status is None
    error = HandshakeError("the server answered 403", 403)
    assert (error.status, str(error)) == (403, "the server answered 403")


def test_a_closed_connection_has_the_code_and_reason_if_they_are_known() -> None:
    error = ConnectionClosed("the connection is closed")
    assert (error.code, error.reason, str(error)) == (None, "", "the connection is closed")
    error = ConnectionClosed("the connection is closed", 1001, "going away")
    assert (error.code, error.reason) == (1001, "going away")


def test_an_unknown_outcome_has_the_id_of_the_message_if_it_has_one() -> None:
    assert OutcomeUnknown("no answer").message_id is None
    error = OutcomeUnknown("no answer", "id")
    assert (error.message_id, str(error)) == ("id", "no answer")


def test_a_protocol_error_has_the_code_and_reason_for_the_peer() -> None:
    error = ProtocolError(1009, "too big")
    assert (error.code, error.reason, str(error)) == (1009, "too big", "too big")
