"""Key sets from a real server on loopback and from a file: caching, rotation, failures, and hostile answers."""

from __future__ import annotations

import json
import logging
import ssl
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from joserfc.jwk import ECKey
from support.serving import GUARD
from support.tokens import ISSUER, NOW, KeyServer, claims, ec_key, ed_key, encoded, key_server, public, rsa_key, token
from support.waiting import until_blocked

from pywsapp import ConfigurationError, InvalidCredentials, Refuse
from pywsapp.auth.jwks import MAX_KEYS, MAX_SIZE, Jwks, _BadKeySet, keys_of
from pywsapp.auth.jwt import JwtAuthenticator

pytestmark = pytest.mark.anyio


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def by(*sources: Any) -> JwtAuthenticator:
    issuers = [ISSUER, "https://other.example"]
    return JwtAuthenticator(dict(zip(issuers, sources, strict=False)), audience="chat", clock=lambda: NOW)


async def accepts(authenticator: JwtAuthenticator, value: str) -> bool:
    with anyio.fail_after(GUARD):
        try:
            await authenticator.verify(value)
        except InvalidCredentials:
            return False
        return True


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


async def test_the_keys_are_loaded_once() -> None:
    with key_server(public(rsa_key())) as server:
        authenticator = by(Jwks.from_url(server.url))
        assert server.paths == []
        for _ in range(3):
            assert await accepts(authenticator, token(rsa_key()))
        assert server.paths == ["/keys.json"]


def answer_late(server: Any) -> tuple[threading.Event, threading.Event]:
    """Return an event for the arrival of a request, and one for which the answer waits."""
    arrived, served, answer = threading.Event(), threading.Event(), server.answer

    def late(handler: Any) -> None:
        arrived.set()
        served.wait(GUARD)
        answer(handler)

    server.answer = late
    return arrived, served


async def test_many_clients_at_the_same_time_cause_one_request() -> None:
    with key_server(public(rsa_key())) as server:
        arrived, served = answer_late(server)
        authenticator = by(Jwks.from_url(server.url))
        results: list[bool] = []

        async def check() -> None:
            results.append(await accepts(authenticator, token(rsa_key())))

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(check)
            await anyio.to_thread.run_sync(arrived.wait, GUARD)
            served.set()
        assert results == [True] * 10
        assert len(server.paths) == 1


async def test_a_client_that_leaves_does_not_end_the_attempt_for_others() -> None:
    with key_server(public(rsa_key())) as server:
        arrived, served = answer_late(server)
        authenticator = by(Jwks.from_url(server.url))
        results: list[bool] = []
        first = anyio.CancelScope()

        async def leave() -> None:
            with first:
                await authenticator.verify(token(rsa_key()))

        async def check() -> None:
            results.append(await accepts(authenticator, token(rsa_key())))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            await anyio.to_thread.run_sync(arrived.wait, GUARD)
            tasks.start_soon(check)
            first.cancel()
            served.set()
        assert results == [True]
        assert len(server.paths) == 1


async def test_keys_are_rotated() -> None:
    clock = Clock()
    with key_server(public(rsa_key(0))) as server:
        authenticator = by(Jwks.from_url(server.url, clock=clock))
        old, new = token(rsa_key(0)), token(rsa_key(1), kid="b")
        assert await accepts(authenticator, old)
        server.answer = server.serves(public(rsa_key(0)), public(rsa_key(1), "b"))
        clock.now += 30
        assert await accepts(authenticator, new)  # an unknown name loads the set again
        assert await accepts(authenticator, old)
        assert len(server.paths) == 2
        server.answer = server.serves(public(rsa_key(1), "b"))
        clock.now += 600  # the set is loaded again because of its age
        assert not await accepts(authenticator, old)
        assert await accepts(authenticator, new)
        assert len(server.paths) == 3


async def test_invented_names_cause_a_request_every_thirty_seconds_at_most() -> None:
    clock = Clock()
    with key_server(public(rsa_key())) as server:
        authenticator = by(Jwks.from_url(server.url, clock=clock))
        for number in range(50):
            assert not await accepts(authenticator, token(rsa_key(), kid=str(number)))
        assert len(server.paths) == 1
        clock.now += 30
        for number in range(50):
            assert not await accepts(authenticator, token(rsa_key(), kid=str(number)))
        assert len(server.paths) == 2


async def test_no_request_is_made_for_what_a_token_claims() -> None:
    """A server asked the place that an unverified claim named (Centrifugo, CVE-2026-32301)."""
    with key_server(public(rsa_key(0))) as server, key_server(public(rsa_key(1))) as evil:
        authenticator = by(Jwks.from_url(server.url))
        base = evil.url.removesuffix("/keys.json")
        for issuer in base, evil.url, f"{ISSUER}@{base}", f"{ISSUER}/../{base}":
            forged = token(rsa_key(1), body=claims(iss=issuer), jku=evil.url, x5u=evil.url)
            assert not await accepts(authenticator, forged)
        assert not await accepts(authenticator, token(rsa_key(1), jku=evil.url, x5u=evil.url))
        assert evil.paths == []
        assert len(server.paths) == 1


async def test_two_issuers_with_the_same_name_of_a_key() -> None:
    with key_server(public(rsa_key(0))) as one, key_server(public(rsa_key(1))) as two:
        authenticator = by(Jwks.from_url(one.url), Jwks.from_url(two.url))
        other = claims(iss="https://other.example")
        assert await accepts(authenticator, token(rsa_key(0)))
        assert await accepts(authenticator, token(rsa_key(1), body=other))
        assert not await accepts(authenticator, token(rsa_key(1)))
        assert not await accepts(authenticator, token(rsa_key(0), body=other))


async def test_the_last_keys_are_used_while_the_server_is_away(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with key_server(public(rsa_key())) as server:
        jwks = Jwks.from_url(server.url, clock=clock)
        authenticator = by(jwks)
        assert await accepts(authenticator, token(rsa_key()))
        server.answer = server.sends(b"", 500)
        for seconds in 600, 29, 1, 3600:
            clock.now += seconds
            assert await accepts(authenticator, token(rsa_key()))
        assert len(server.paths) == 4
        clock.now += 24 * 3600
        with pytest.raises(Refuse) as caught:
            await authenticator.verify(token(rsa_key()))
        assert (caught.value.status, caught.value.headers) == (503, (("Retry-After", "5"),))
        assert warnings(caplog) == [f"loading the keys of {server.url} failed: the server answered 500"] * 4
        server.answer = server.serves(public(rsa_key()))
        clock.now += 30
        assert await accepts(authenticator, token(rsa_key()))


async def test_without_keys_a_token_is_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with key_server(public(rsa_key())) as server:
        server.answer, answer = server.sends(b"", 500), server.answer
        authenticator = by(Jwks.from_url(server.url, clock=clock))
        for _ in range(3):
            with pytest.raises(Refuse, match="503"):
                await authenticator.verify(token(rsa_key()))
        assert len(server.paths) == 1
        server.answer = answer
        clock.now += 5
        assert await accepts(authenticator, token(rsa_key()))
    assert len(warnings(caplog)) == 1


BAD_ANSWERS: dict[str, Any] = {
    "it is not JSON": KeyServer.sends(b"<html>"),
    "it is no key set": KeyServer.sends(b"[]"),
    'it is no key set: {"keys": [...]}': KeyServer.sends(b'{"keys": {}}'),
    "it has no key that can verify signatures": KeyServer.sends(b'{"keys": []}'),
    "it has more than 100 keys": KeyServer.sends(json.dumps({"keys": [{}] * (MAX_KEYS + 1)}).encode()),
    "it is larger than 262144 bytes": KeyServer.sends(b" " * (MAX_SIZE + 1)),
    "the server answered 302": KeyServer.sends(b"", 302, Location="http://127.0.0.1:1/keys.json"),
    "the server answered 404": KeyServer.sends(b"", 404),
    "BadStatusLine": lambda handler: handler.wfile.write(b"hello\r\n"),
    "LineTooLong": lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n"),
    "IncompleteRead": KeyServer.sends(b"{}", 200, **{"Transfer-Encoding": "chunked"}),
    "RemoteDisconnected": lambda handler: None,
}


@pytest.mark.parametrize("reason", BAD_ANSWERS)
async def test_a_bad_answer_is_logged_and_not_used(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with key_server() as server:
        server.answer = BAD_ANSWERS[reason]
        with anyio.fail_after(GUARD), pytest.raises(Refuse, match="503"):
            await by(Jwks.from_url(server.url)).verify(token(rsa_key()))
    assert len(warnings(caplog)) == 1
    assert reason in warnings(caplog)[0] or reason == "IncompleteRead"


@pytest.mark.parametrize("answers", ["nothing", "slowly"])
async def test_a_slow_server_has_a_time_limit(answers: str, caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()

    def slowly(handler: Any) -> None:
        try:
            while not ended.wait(0.02):
                if answers == "slowly":
                    handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        except OSError:
            ended.set()

    with key_server() as server:
        server.answer = slowly
        with anyio.fail_after(GUARD), pytest.raises(Refuse, match="503"):
            await by(Jwks.from_url(server.url, timeout=0.2)).verify(token(rsa_key()))
        if answers == "slowly":
            with anyio.fail_after(GUARD):
                assert await anyio.to_thread.run_sync(ended.wait, GUARD)  # the connection was closed
        ended.set()
    assert "failed: TimeoutError" in caplog.text


async def test_over_tls_the_certificate_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting, other = ssl.create_default_context(), ssl.create_default_context()
    authority.configure_trust(trusting)
    stranger.configure_trust(other)
    with key_server(public(rsa_key()), context=context) as server:
        assert await accepts(by(Jwks.from_url(server.url, tls=trusting)), token(rsa_key()))
        address = server.url.replace("localhost", "127.0.0.1")
        for url, tls in (server.url, other), (address, trusting), (server.url, None):
            with pytest.raises(Refuse, match="503"):
                await by(Jwks.from_url(url, tls=tls)).verify(token(rsa_key()))
        assert len(server.paths) == 1
    assert caplog.text.count("CERTIFICATE_VERIFY_FAILED") == 3


async def test_keys_from_a_file_that_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, path = Clock(), tmp_path / "keys.json"
    jwks = Jwks.from_file(path, clock=clock)
    authenticator = by(jwks)
    with pytest.raises(Refuse, match="503"):
        await authenticator.verify(token(rsa_key()))
    path.write_text(json.dumps({"keys": [public(rsa_key())]}))
    clock.now += 5
    assert await accepts(authenticator, token(rsa_key()))
    path.write_text(json.dumps({"keys": [public(rsa_key(1), "b")]}))
    clock.now += 30
    assert await accepts(authenticator, token(rsa_key(1), kid="b"))
    (warning,) = warnings(caplog)
    assert warning.startswith(f"loading the keys of {path} failed: FileNotFoundError")
    assert repr(jwks) == f"Jwks({path})"


async def test_keys_from_a_function_of_the_program() -> None:
    async def load() -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        return {"keys": [public(rsa_key())]}

    assert await accepts(by(Jwks(load)), token(rsa_key()))
    assert await accepts(by(Jwks(lambda: {"keys": [public(rsa_key())]})), token(rsa_key()))


async def test_stale_keys_are_used_while_another_task_loads() -> None:
    clock, begun, ready = Clock(), anyio.Event(), anyio.Event()
    loads = 0

    async def load() -> dict[str, Any]:
        nonlocal loads
        loads += 1
        if loads > 1:
            begun.set()
            await ready.wait()
        return {"keys": [public(rsa_key())]}

    authenticator = by(Jwks(load, clock=clock))
    assert await accepts(authenticator, token(rsa_key()))
    clock.now += 600
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(authenticator.verify, token(rsa_key()))
        await begun.wait()
        await until_blocked()
        assert await accepts(authenticator, token(rsa_key()))
        ready.set()
    assert loads == 2


# -- which keys are used -------------------------------------------------------------------------------------------


def test_the_keys_that_are_used() -> None:
    found = keys_of({"keys": [public(rsa_key()), public(ec_key(), "b"), public(ed_key(), None), *ignored()]})
    assert [(key.kid, key.algorithms) for key in found] == [
        ("a", ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ("b", ("ES256",)),
        (None, ("EdDSA", "Ed25519")),
    ]
    for key in ignored():
        with pytest.raises(_BadKeySet, match="no key that can verify"):
            keys_of({"keys": [key]})


def ignored() -> list[Any]:
    rsa = public(rsa_key())
    return [
        {"kty": "oct", "k": encoded(b"0123456789abcdef0123456789abcdef"), "kid": "a"},
        {**rsa, "use": "enc"},
        {**rsa, "key_ops": ["encrypt"]},
        {**rsa, "key_ops": "verify"},
        {**rsa, "alg": "RSA-OAEP"},
        {**rsa, "alg": "HS256"},
        {**rsa, "alg": ["RS256"]},
        {**rsa, "kid": 7},
        {**rsa, "n": "AQAB"},
        {**rsa, "n": 7},
        {**rsa, "n": "*"},
        {**rsa, "e": ""},
        {name: value for name, value in rsa.items() if name != "n"},
        {**rsa, "n": encoded(((1 << 1024) - 105).to_bytes(128, "big"))},
        {**rsa, "n": encoded(b"\xff" * 1025)},
        public(ECKey.generate_key("secp256k1", auto_kid=False)),
        {**public(ec_key()), "x": encoded(b"\1" * 32)},
        {**public(ec_key()), "crv": "P-384"},
        {**public(ec_key()), "crv": ["P-256"]},
        {**public(ed_key()), "crv": "X25519"},
        {**public(ed_key()), "x": "AA"},
        {"kty": "RSA"},
        {"kty": None},
        {},
        [],
        None,
        "key",
    ]


def test_a_private_key_in_a_set_is_used_as_a_public_one() -> None:
    private = {**rsa_key().as_dict(private=True), "kid": "a"}
    (found,) = keys_of({"keys": [private]})
    assert not found.key.is_private
    assert private["d"] not in repr(found)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://issuer.example/keys.json", "must be https"),
        ("http://localhost.evil.example/keys.json", "must be https"),
        ("file:///etc/passwd", "looks like https"),
        ("ftp://localhost/keys.json", "looks like https"),
        ("keys.json", "looks like https"),
        ("https:///keys.json", "looks like https"),
        ("https://ana:secret@issuer.example/keys.json", "looks like https"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Jwks.from_url(url)
    assert "secret" not in str(caught.value)


def test_a_key_set_that_is_no_function() -> None:
    with pytest.raises(ConfigurationError, match="must be a function"):
        Jwks({"keys": []})  # type: ignore[arg-type]
