"""JSON Web Tokens: which are accepted, and every known way to forge one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tokens import ISSUER, NOW, claims, ec_key, ed_key, encoded, public, rsa_key, secret_key, token
from support.wire import handshake, peer_of, running

from pywsapp import App, ConfigurationError, Connection, InvalidCredentials, MessageComponent, Request
from pywsapp.auth import QueryToken
from pywsapp.auth.jwt import ANY_AUDIENCE, Jwks, JwtAuthenticator, SharedSecret

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Nothing here waits but `Jwks`, whose tests run on all event loops."""
    return "asyncio"


SECRET = b"0123456789abcdef0123456789abcdef"


def key_set(*keys: Mapping[str, Any], **options: Any) -> Jwks:
    return Jwks(lambda: {"keys": list(keys)}, **options)


def authenticator(*keys: Mapping[str, Any], **changes: Any) -> JwtAuthenticator:
    options = {"audience": "chat", "clock": lambda: NOW, **changes}
    return JwtAuthenticator({ISSUER: key_set(*(keys or [public(rsa_key())]))}, **options)


async def refused(by: JwtAuthenticator, value: str) -> str:
    with pytest.raises(InvalidCredentials) as caught:
        await by.verify(value)
    assert value not in str(caught.value)
    assert caught.value.status == 401
    return str(caught.value.body)


# -- valid tokens --------------------------------------------------------------------------------------------------


async def test_a_valid_token_has_a_user_an_expiry_and_a_subject() -> None:
    found = await authenticator().verify(token(rsa_key()))
    assert found.user == claims()
    assert found.expires_at == NOW + 60 + 30
    assert found.subject == f"{ISSUER} ana"


KEYS: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), rsa_key),
    "ES256": lambda: ec_key("P-256"),
    "ES384": lambda: ec_key("P-384"),
    "ES512": lambda: ec_key("P-521"),
    "EdDSA": ed_key,
    "Ed25519": ed_key,
}


@pytest.mark.parametrize("algorithm", KEYS)
async def test_every_algorithm_of_public_keys(algorithm: str) -> None:
    key = KEYS[algorithm]()
    value = token(key, algorithm)
    assert (await authenticator(public(key)).verify(value)).user["sub"] == "ana"
    assert (await authenticator(public(key, alg=algorithm)).verify(value)).user["sub"] == "ana"
    head, _, signature = value.rpartition(".")
    changed = f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    assert "signature" in await refused(authenticator(public(key)), changed)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_every_algorithm_of_secrets(algorithm: str) -> None:
    shared = SharedSecret([b"another secret of 32 bytes......", SECRET])
    by = JwtAuthenticator({ISSUER: shared}, audience="chat", clock=lambda: NOW)
    for kid in "a", None:
        assert (await by.verify(token(secret_key(SECRET), algorithm, kid=kid))).user["sub"] == "ana"
    assert "signature" in await refused(by, token(secret_key(b"a third secret of 32 bytes......"), algorithm))
    assert SECRET.decode() not in repr(shared) + repr(by) + repr(vars(shared))


async def test_a_token_without_the_name_of_a_key_is_tried_with_the_keys_of_its_algorithm() -> None:
    by = authenticator(public(ec_key(), "e"), public(rsa_key(1), "b"), public(rsa_key(0), "a"))
    assert (await by.verify(token(rsa_key(0), kid=None))).user["sub"] == "ana"
    many = authenticator(*(public(rsa_key(1), str(number)) for number in range(4)), public(rsa_key(0), "a"))
    assert "signature" in await refused(many, token(rsa_key(0), kid=None))  # only four keys are tried
    assert (await many.verify(token(rsa_key(0), kid="a"))).user["sub"] == "ana"


@pytest.mark.parametrize("later", [False, True])
async def test_a_function_makes_the_user(later: bool) -> None:
    def make(found: dict[str, Any]) -> Any:
        return {"ana": "Ana"}.get(found["sub"])

    async def make_later(found: dict[str, Any]) -> Any:
        await anyio.lowlevel.checkpoint()
        return make(found)

    by = authenticator(user=make_later if later else make)
    assert (await by.verify(token(rsa_key()))).user == "Ana"
    await refused(by, token(rsa_key(), body=claims(sub="bob")))


async def test_a_connection_has_the_claims_as_its_user() -> None:
    class Greeting(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            conn.send(f"{conn.user['sub']} {conn.request.query_string}")

    by = JwtAuthenticator({ISSUER: key_set(public(rsa_key()))}, QueryToken(), audience="chat", clock=lambda: NOW)
    app = App("*", 0, authenticate=by)
    app.route("/x", Greeting())
    async with running(app):
        async with peer_of(app) as peer:
            await peer.open(f"/x?token={token(rsa_key())}")
            assert (await peer.frame())[1] == b"ana "
        async with peer_of(app) as peer:
            await peer.send(handshake(f"/x?token={token(rsa_key(1))}"))
            assert (await peer.response()).body == b"the signature of the token is wrong, or its key is not known\n"


# -- forged tokens -------------------------------------------------------------------------------------------------


OTHER_ALGORITHMS = ["none", "NONE", "nOnE", "", pytest.param(None, id="missing"), 7, ["RS256"], "HS256", "RS1", "rs256"]


@pytest.mark.parametrize("algorithm", OTHER_ALGORITHMS)
@pytest.mark.parametrize("signature", ["", "AA", None])
async def test_other_algorithms_do_not_exist(algorithm: Any, signature: str | None) -> None:
    valid = token(rsa_key())
    head = encoded({"kid": "a", **({} if algorithm is None else {"alg": algorithm})})
    value = f"{head}.{encoded(claims())}.{valid.rpartition('.')[2] if signature is None else signature}"
    by_secret = JwtAuthenticator({ISSUER: SharedSecret(SECRET)}, audience="chat", clock=lambda: NOW)
    reason = "malformed" if signature == "" else "algorithm"
    assert reason in await refused(authenticator(), value)
    if algorithm == "HS256" and signature != "":
        reason = "signature"
    assert reason in await refused(by_secret, value)


async def test_a_public_key_is_never_the_secret_of_an_hmac() -> None:
    key = rsa_key()
    texts = [key.as_pem(private=False), json.dumps(public(key)).encode(), key.as_der(private=False)]
    both = JwtAuthenticator(
        {ISSUER: key_set(public(key)), "https://other.example": SharedSecret(SECRET)},
        audience="chat",
        clock=lambda: NOW,
    )
    for text in texts:
        for algorithm in "HS256", "HS384", "HS512":
            forged = hmac_token(text, algorithm)
            assert "algorithm" in await refused(authenticator(), forged)
            assert "signature" in await refused(both, forged)


def hmac_token(secret: bytes, algorithm: str = "HS256", body: object = None) -> str:
    import hashlib
    import hmac

    signed = f"{encoded({'alg': algorithm, 'kid': 'a'})}.{encoded(body or claims())}"
    digest = hmac.new(secret, signed.encode(), getattr(hashlib, f"sha{algorithm[2:]}")).digest()
    return f"{signed}.{encoded(digest)}"


async def test_a_symmetric_key_in_a_key_set_is_ignored() -> None:
    leaked = {"kty": "oct", "k": encoded(SECRET), "kid": "a"}
    by = authenticator(leaked, public(rsa_key(), "b"))
    assert "algorithm" in await refused(by, token(secret_key(SECRET), "HS256"))
    with pytest.raises(ConfigurationError, match="no issuer has keys for HS256"):
        authenticator(leaked, algorithms=["RS256", "HS256"])


async def test_a_key_is_used_with_its_own_algorithms_only() -> None:
    assert "signature" in await refused(authenticator(public(rsa_key(), alg="RS512")), token(rsa_key(), "RS256"))
    assert "signature" in await refused(authenticator(public(rsa_key())), token(ec_key(), "ES256"))
    assert "algorithm" in await refused(authenticator(algorithms=["RS512"]), token(rsa_key(), "RS256"))
    assert "signature" in await refused(authenticator(public(ec_key("P-384"))), token(ec_key(), "ES256"))


@pytest.mark.parametrize("r_and_s", [b"\0" * 64, b"\xff" * 64, b"\0" * 63 + b"\1", b"\0" * 32, b""])
async def test_zero_signatures_of_curves(r_and_s: bytes) -> None:
    head = token(ec_key(), "ES256").rpartition(".")[0]
    reason = await refused(authenticator(public(ec_key())), f"{head}.{encoded(r_and_s)}")
    assert ("signature" if r_and_s else "malformed") in reason


@pytest.mark.parametrize(
    "kid",
    [
        "b",
        "../../../dev/null",
        "/dev/null",
        "a' OR '1'='1",
        "a\0",
        "http://127.0.0.1:1/keys.json",
        "A",
        "",
        " a",
        "a" * 257,
        7,
        ["a"],
        {"a": 1},
        True,
    ],
)
async def test_the_name_of_a_key_is_only_compared(kid: Any) -> None:
    is_name = isinstance(kid, str) and len(kid) <= 256
    reason = await refused(authenticator(), token(rsa_key(), kid=kid))
    assert ("its key is not known" if is_name else "the name of the key of the token is malformed") in reason


@pytest.mark.parametrize("field", ["jwk", "jku", "x5u", "x5c"])
async def test_keys_in_the_token_are_never_used(field: str) -> None:
    own = rsa_key(1)
    values: dict[str, Any] = {
        "jwk": public(own),
        "jku": "http://127.0.0.1:1/",
        "x5u": "http://127.0.0.1:1/",
        "x5c": ["AAAA"],
    }
    assert "signature" in await refused(authenticator(), token(own, **{field: values[field]}))
    assert (await authenticator().verify(token(rsa_key(), **{field: values[field]}))).user["sub"] == "ana"


@pytest.mark.parametrize("header", [{"crit": ["b64"], "b64": False}, {"crit": []}, {"crit": ["exp"]}])
async def test_extensions_are_refused(header: dict[str, Any]) -> None:
    assert "extension" in await refused(authenticator(), token(rsa_key(), **header))


async def test_issuers_do_not_share_keys() -> None:
    """Two issuers can have a key of the same name (Centrifugo, CVE-2026-49998)."""
    other = "https://other.example"
    by = JwtAuthenticator(
        {ISSUER: key_set(public(rsa_key(0))), other: key_set(public(rsa_key(1)))}, audience="chat", clock=lambda: NOW
    )
    assert (await by.verify(token(rsa_key(0)))).subject == f"{ISSUER} ana"
    assert (await by.verify(token(rsa_key(1), body=claims(iss=other)))).subject == f"{other} ana"
    await refused(by, token(rsa_key(1)))
    await refused(by, token(rsa_key(0), body=claims(iss=other)))


@pytest.mark.parametrize("issuer", [None, "", "https://evil.example", f"{ISSUER}/", ISSUER.upper(), 7, [ISSUER], {}])
async def test_other_issuers(issuer: Any) -> None:
    assert "issuer" in await refused(authenticator(), token(rsa_key(), body=claims(iss=issuer)))


# -- claims --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW - 30}, "expired"),
        ({"exp": None}, "missing or malformed"),
        ({"exp": "9999999999"}, "missing or malformed"),
        ({"exp": True}, "missing or malformed"),
        ({"exp": -1}, "missing or malformed"),
        ({"exp": 10**400}, "missing or malformed"),
        ({"exp": 2**53}, "missing or malformed"),
        ({"exp": [NOW + 60]}, "missing or malformed"),
        ({"nbf": NOW + 31}, "not valid yet"),
        ({"iat": NOW + 31}, "not valid yet"),
        ({"nbf": "0"}, "missing or malformed"),
        ({"iat": {}}, "missing or malformed"),
        ({"aud": None}, "another audience"),
        ({"aud": "shop"}, "another audience"),
        ({"aud": ["shop", "Chat"]}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": 7}, "audience of the token is malformed"),
        ({"aud": ["chat", 7]}, "audience of the token is malformed"),
        ({"aud": {"chat": 1}}, "audience of the token is malformed"),
    ],
)
async def test_claims_that_are_refused(changes: dict[str, Any], reason: str) -> None:
    assert reason in await refused(authenticator(), token(rsa_key(), body=claims(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 29.9},
        {"nbf": NOW + 30},
        {"iat": NOW + 30},
        {"iat": None},
        {"aud": ["shop", "chat"]},
        {"sub": None},
        {"more": {"deep": [1, None, "é"]}},
    ],
)
async def test_claims_that_are_accepted(changes: dict[str, Any]) -> None:
    await authenticator().verify(token(rsa_key(), body=claims(**changes)))


async def test_any_audience_and_no_leeway() -> None:
    by = authenticator(audience=ANY_AUDIENCE, leeway=0)
    await by.verify(token(rsa_key(), body=claims(aud=None)))
    assert "expired" in await refused(by, token(rsa_key(), body=claims(exp=NOW)))
    both = authenticator(audience=["shop", "chat"])
    await both.verify(token(rsa_key()))


@pytest.mark.parametrize("kind", ["at+jwt", "AT+JWT", "application/at+jwt"])
async def test_the_type_of_a_token(kind: str) -> None:
    by = authenticator(token_type="at+jwt")
    await by.verify(token(rsa_key(), typ=kind))
    for other in None, "JWT", 7, "at+jwt ":
        assert "another type" in await refused(by, token(rsa_key(), typ=other))


# -- malformed tokens ----------------------------------------------------------------------------------------------


def malformed() -> list[str]:
    head, body, signature = token(rsa_key()).split(".")
    return [
        "",
        ".",
        "..",
        "...",
        head,
        f"{head}.{body}",
        f"{head}.{body}.",
        f".{body}.{signature}",
        f"{head}..{signature}",
        f"{head}.{body}.{signature}.",
        f"{head}.{body}.{signature}.{signature}.{signature}",  # a JWE has five parts
        f"{head}=.{body}.{signature}",
        f"{head}.{body}.{signature}=",
        f"{head}.{body}.{signature}==",
        f"{head}.{body}.+{signature[1:]}",
        f"{head} .{body}.{signature}",
        f"{encoded(b'[]')}.{body}.{signature}",
        f"{encoded(b'{')}.{body}.{signature}",
        f"{encoded(b'null')}.{body}.{signature}",
        f"{head}.{encoded(b'7')}.{signature}",
        f"{encoded(chr(0xE9).encode('latin-1'))}.{body}.{signature}",
        f"{encoded('{}'.encode('utf-16'))}.{body}.{signature}",
        f"{encoded(b'[' * 3000)}.{body}.{signature}",
        f"{head}.{encoded(b'{' + b'a' * 3000)}.{signature}",
        f"{head}.{encoded(b'[' * 5000 + b']' * 5000)}.{signature}",
        f"{head}.{encoded({'iss': ISSUER, 'x': 'a' * 9000})}.{signature}",
        "a" * 8193,
        "é" + head,
        f"{head}.{body}.{signature}\n",
    ]


@pytest.mark.parametrize("number", range(29))
async def test_malformed_tokens(number: int) -> None:
    with pytest.raises(InvalidCredentials):
        await authenticator().verify(malformed()[number])


async def test_a_name_that_is_there_twice_is_refused() -> None:
    """Two parsers could take another one of the two."""
    key = rsa_key()
    for body in b'{"iss":"%b","iss":"%b","aud":"chat","exp":9999999999}', b'{"iss":"%b","x":{"%b":1,"a":2,"a":3}}':
        value = token(key, body=body % (ISSUER.encode(), ISSUER.encode()))
        assert "malformed" in await refused(authenticator(), value)
    for constant in b"NaN", b"Infinity", b"-Infinity":
        value = token(key, body=b'{"iss":"%b","aud":"chat","exp":%b}' % (ISSUER.encode(), constant))
        assert "malformed" in await refused(authenticator(), value)
    value = token(key, body=b'{"iss":"%b","aud":"chat","exp":1e999}' % ISSUER.encode())
    assert "missing or malformed" in await refused(authenticator(), value)


async def test_a_last_character_with_other_bits_is_another_spelling_and_refused() -> None:
    key = ec_key()  # 64 bytes end in a character of which four bits are not used
    value = token(key, "ES256")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = alphabet[alphabet.index(value[-1]) ^ 1]
    await authenticator(public(key)).verify(value)
    assert "malformed" in await refused(authenticator(public(key)), value[:-1] + other)


pieces = st.one_of(
    st.text("abcAZ019-_=+/. é", max_size=20),
    st.binary(max_size=30).map(encoded),
    st.dictionaries(
        st.sampled_from(["alg", "kid", "iss", "exp", "aud", "crit", "typ"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["RS256", "HS256", ISSUER, "chat"]),
        max_size=4,
    ).map(encoded),
)


async def test_no_text_raises_anything_else() -> None:
    by = authenticator(public(rsa_key()), public(ec_key(), "e"), public(ed_key(), "o"))
    texts: list[str] = []

    @given(st.lists(pieces, min_size=1, max_size=5).map(".".join))
    def collect(text: str) -> None:
        texts.append(text)

    collect()
    for text in texts:
        with pytest.raises(InvalidCredentials):
            await by.verify(text)


# -- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        ({}, {"audience": "chat"}, "the keys of each issuer"),
        ("https://issuer.example", {"audience": "chat"}, "the keys of each issuer"),
        ({ISSUER: "secret"}, {"audience": "chat"}, "write SharedSecret"),
        ({ISSUER: Jwks}, {"audience": "chat"}, "must be a Jwks"),
        ({"": SharedSecret(SECRET)}, {"audience": "chat"}, "an issuer is"),
        ({ISSUER: SharedSecret(SECRET)}, {}, "audience is the name of this service"),
        ({ISSUER: SharedSecret(SECRET)}, {"audience": ""}, "audience is the name of this service"),
        ({ISSUER: SharedSecret(SECRET)}, {"audience": []}, "audience is the name of this service"),
        ({ISSUER: SharedSecret(SECRET)}, {"audience": ["chat", None]}, "audience is the name of this service"),
        ({ISSUER: SharedSecret(SECRET)}, {"audience": "chat", "algorithms": ["none"]}, "none is no algorithm"),
        ({ISSUER: SharedSecret(SECRET)}, {"audience": "chat", "algorithms": ["RS256"]}, "no issuer has keys for RS256"),
        ({ISSUER: SharedSecret(SECRET)}, {"audience": "chat", "algorithms": "HS256"}, "is a list"),
        ({ISSUER: SharedSecret(SECRET)}, {"audience": "chat", "leeway": -1}, "leeway"),
        ({ISSUER: SharedSecret(SECRET)}, {"audience": "chat", "leeway": True}, "leeway"),
        ({ISSUER: SharedSecret(SECRET)}, {"audience": "chat", "user": lambda: None}, "user must take"),
    ],
)
def test_mistakes_raise_at_once(keys: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        JwtAuthenticator(keys, **options)


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("short", "at least 32 bytes"),
        (7, "at least 32 bytes"),
        (lambda: rsa_key().as_pem(private=False), "of another kind"),
        (lambda: rsa_key().as_der(private=False), "cannot be a shared secret"),
        (lambda: json.dumps(public(rsa_key())), "of another kind"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB", "of another kind"),
    ],
    ids=["short", "number", "pem", "der", "jwk", "ssh"],
)
def test_a_secret_that_is_none(secret: Any, message: str) -> None:
    found = secret() if callable(secret) else secret
    with pytest.raises(ConfigurationError, match=message) as caught:
        SharedSecret([SECRET, found])
    assert str(found) not in str(caught.value)
    with pytest.raises(ConfigurationError, match="needs a secret"):
        SharedSecret([])


async def test_a_request_without_a_token_has_no_user() -> None:
    assert authenticator()(Request()) is None
