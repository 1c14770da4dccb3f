"""Any text is refused as a token, or is one that this program has signed: no change of a valid token is accepted."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Coroutine
from typing import Any

import anyio
from harness import fuzz, instrumented
from joserfc.jwk import ECKey, OctKey, OKPKey
from joserfc.jws import JWSRegistry

with instrumented():
    from pywsapp.auth.jwt import Jwks, JwtAuthenticator, SharedSecret
    from pywsapp.exceptions import InvalidCredentials

NOW = 1_767_225_600.0
SECRET = b"a secret of the fuzz target, with 32 bytes"
KEYS: dict[str, tuple[str, Any]] = {
    "https://a.example": ("Ed25519", OKPKey.generate_key("Ed25519")),
    "https://b.example": ("ES256", ECKey.generate_key("P-256")),
    "https://c.example": ("HS256", OctKey.import_key(SECRET)),
}


def key_set(issuer: str) -> Jwks:
    """Return a key set that is loaded already, and never again."""
    algorithm, key = KEYS[issuer]
    source = Jwks(
        lambda: {"keys": [{**key.as_dict(private=False), "kid": "k"}]}, max_age=math.inf, min_interval=math.inf
    )
    anyio.run(source.find, "k", algorithm)
    return source


AUTHENTICATOR = JwtAuthenticator(
    {
        "https://a.example": key_set("https://a.example"),
        "https://b.example": key_set("https://b.example"),
        "https://c.example": SharedSecret(SECRET),
    },
    audience="fuzz",
    clock=lambda: NOW,
)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(issuer: str, header: dict[str, Any], claims: dict[str, Any]) -> str:
    algorithm, key = KEYS[issuer]
    parts = {"alg": algorithm, "kid": "k", **header}, {"iss": issuer, "aud": "fuzz", "exp": NOW + 60, **claims}
    text = ".".join(encoded(json.dumps(part).encode()) for part in parts)
    return f"{text}.{encoded(JWSRegistry.algorithms[algorithm].sign(text.encode(), key))}"


VALID = [
    signed(issuer, header, claims)
    for issuer in KEYS
    for header in ({}, {"typ": "JWT"}, {"jku": "http://127.0.0.1:1/"})
    for claims in ({}, {"sub": "ana", "nbf": NOW}, {"aud": ["x", "fuzz"], "deep": [[{}]]})
]


def finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits: the keys are there at once, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a token made the server wait")


def one_input(data: bytes) -> None:
    """Run one input: the text of a token."""
    token = data.decode("latin-1")
    try:
        found = finished(AUTHENTICATOR.verify(token))
    except InvalidCredentials:
        assert token not in VALID
        return
    assert token in VALID, "a token that this program has not signed is accepted"
    assert found.user["iss"] in KEYS


def seeds() -> list[bytes]:
    head, body, signature = VALID[0].split(".")
    none, hmac = encoded(b'{"alg":"none"}'), encoded(b'{"alg":"HS256","kid":"k"}')
    others = [f"{none}.{body}.", f"{hmac}.{body}.{signature}", f"{head}.{body}.{signature}.x.y", "a.b.c", f"{head}.."]
    return [text.encode() for text in (*VALID, *others)]


if __name__ == "__main__":
    fuzz(one_input, seeds())
