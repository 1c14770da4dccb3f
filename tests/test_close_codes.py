"""Close codes and close reasons that can be sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp.close_codes import MAX_REASON_BYTES, CloseCode, ComeBack, check_close, come_back, cut_reason, may_be_sent
from pywsapp.exceptions import ConfigurationError

ALLOWED = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_which_codes_may_be_sent() -> None:
    assert {code for code in range(-10, 70000) if may_be_sent(code)} == ALLOWED
    for code in sorted(ALLOWED):
        assert check_close(code, "") == b""


def test_the_registered_codes() -> None:
    assert {code for code in CloseCode if not may_be_sent(code)} == {
        CloseCode.NO_STATUS_RECEIVED,
        CloseCode.ABNORMAL_CLOSURE,
        CloseCode.TLS_HANDSHAKE,
    }
    assert [int(code) for code in CloseCode] == [*range(1000, 1004), *range(1005, 1016), 3503, 4401]
    assert check_close(CloseCode.BAD_GATEWAY, "") == b""


def test_after_which_codes_a_client_comes_back() -> None:
    codes = [None, *range(1000, 5000)]
    found = {rule: {code for code in codes if come_back(code) is rule} for rule in ComeBack}
    assert found[ComeBack.NEVER] == {1000, 1002, 1003, 1007, 1008, 1009, 1010, *range(3500, 4000)}
    assert found[ComeBack.WITH_CREDENTIALS] == {4401}
    assert {None, 1001, 1005, 1006, 1011, 1012, 1013, 3000, 3499, 4000, 4999} <= found[ComeBack.LATER]


@pytest.mark.parametrize(
    "code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536, -1, 1000.0, "1000", None, True]
)
def test_codes_that_may_not_be_sent(code: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_close(code, "")
    assert str(caught.value) == f"close code {code!r} may not be sent: use 1000-1003, 1007-1014 or 3000-4999"


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
def test_the_length_of_a_reason_counts_bytes(character: str) -> None:
    assert MAX_REASON_BYTES == 123
    fits = character * (123 // len(character.encode()))
    assert check_close(1000, fits) == fits.encode()
    with pytest.raises(ConfigurationError, match=r"the close reason takes 12\d bytes; a close frame holds 123"):
        check_close(1000, fits + character)


def test_a_reason_without_a_utf8_form() -> None:
    with pytest.raises(ConfigurationError, match="the close reason cannot be encoded as UTF-8"):
        check_close(1000, "\ud800")


@pytest.mark.parametrize("reason", [b"bye", None, 1, ["x"]])
def test_a_reason_is_text(reason: Any) -> None:
    with pytest.raises(ConfigurationError, match="the close reason must be a str, not"):
        check_close(1000, reason)


@given(st.integers(), st.text(max_size=200))
def test_any_code_and_reason_are_accepted_or_refused(code: int, reason: str) -> None:
    try:
        encoded = check_close(code, reason)
    except ConfigurationError:
        assert code not in ALLOWED or len(reason.encode("utf-8", "surrogatepass")) > 123
    else:
        assert code in ALLOWED
        assert encoded == reason.encode()


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
def test_a_long_reason_is_cut_between_characters(character: str) -> None:
    fits = character * (MAX_REASON_BYTES // len(character.encode()))
    assert cut_reason(fits) == fits
    assert cut_reason(fits + character) == fits
    assert cut_reason(fits * 50) == fits


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_text_is_cut_to_a_reason_that_can_be_sent(text: str) -> None:
    reason = cut_reason(text)
    assert check_close(1000, reason) == reason.encode()
    assert text.encode("utf-8", "replace").decode().startswith(reason)
