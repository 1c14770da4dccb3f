"""API keys: only hashes are kept, and all of them are compared."""

from __future__ import annotations

import hmac

import pytest

from pywsapp import ConfigurationError, InvalidCredentials, Request
from pywsapp.auth import ApiKeyAuthenticator, QueryToken, hash_api_key, new_api_key
from pywsapp.auth.identity import Authenticated

ANA, BOB, BOB_OLD = new_api_key(), new_api_key(), new_api_key()
KEYS = ApiKeyAuthenticator({"ana": ANA, "bob": [hash_api_key(BOB), BOB_OLD]})


def user_of(request: Request) -> object:
    found = KEYS(request)
    return found.user if isinstance(found, Authenticated) else found


def test_each_key_has_its_user() -> None:
    assert user_of(Request(headers=[("X-API-Key", ANA)])) == "ana"
    assert user_of(Request(headers=[("Authorization", f"Bearer {BOB}")])) == "bob"
    assert user_of(Request(headers=[("X-API-Key", BOB_OLD)])) == "bob"
    assert user_of(Request()) is None
    assert KEYS.verify(ANA).subject == "ana"


@pytest.mark.parametrize(
    "key",
    ["wrong", ANA[:-1], ANA + "x", hash_api_key(BOB).removeprefix("sha256:"), "ü", ""],
    ids=["wrong", "shorter", "longer", "its hash", "not ASCII", "empty"],
)
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(InvalidCredentials) as caught:
        KEYS(Request(headers=[("X-API-Key", key)]))
    assert not key or key not in str(caught.value)


def test_all_keys_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    KEYS.verify(ANA)
    assert len(compared) == 3


def test_no_key_is_kept() -> None:
    assert ANA not in repr(KEYS) + repr(vars(KEYS))


def test_new_keys_differ() -> None:
    assert len(new_api_key()) == 32
    assert new_api_key() != new_api_key()


def test_a_new_key_can_be_the_value_of_an_option() -> None:
    assert not any(new_api_key().startswith("-") for _ in range(3000))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ana": "short"}, "too short"),
        ({"ana": b"bytes"}, "must be a str"),
        ({"ana": 5 * [ANA]}, "twice"),
        ({"ana": ANA, "bob": hash_api_key(ANA)}, "twice"),
        ({"ana": "a key with spaces in it"}, "characters"),
        ([ANA], "is a dict"),
    ],
)
def test_mistakes_do_not_show_keys(keys: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        ApiKeyAuthenticator(keys)  # type: ignore[arg-type]
    assert ANA not in str(caught.value)


def test_a_key_in_the_query() -> None:
    keys = ApiKeyAuthenticator({"ana": ANA}, QueryToken("api_key"))
    request = Request(query_string=f"api_key={ANA}&a=1")
    found = keys(request)
    assert isinstance(found, Authenticated)
    assert request.query_string == "a=1"
