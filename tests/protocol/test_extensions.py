"""The grammar of Sec-WebSocket-Extensions (RFC 6455 section 9.1)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.utilities import split_comma_header

from pywsapp._protocol.extensions import Offer, parse_extensions
from pywsapp._protocol.http import TOKEN

DEFLATE: Offer = ("permessage-deflate", [])


@pytest.mark.parametrize(
    ("values", "offers"),
    [
        ([], []),
        (["permessage-deflate"], [DEFLATE]),
        (["permessage-deflate; client_max_window_bits"], [("permessage-deflate", [("client_max_window_bits", None)])]),
        (["a;b=1;c", "d"], [("a", [("b", "1"), ("c", None)]), ("d", [])]),
        (["a; b=1, a; b=2 ,a"], [("a", [("b", "1")]), ("a", [("b", "2")]), ("a", [])]),
        (["a; b=1; b=1"], [("a", [("b", "1"), ("b", "1")])]),
        (['a; b="10"'], [("a", [("b", "10")])]),
        (['a; b="\\1\\0"'], [("a", [("b", "10")])]),
        (["\ta\t;\tb\t=\t1\t,, ,"], [("a", [("b", "1")])]),
        (["Permessage-Deflate"], [("Permessage-Deflate", [])]),
    ],
)
def test_wellformed(values: list[str], offers: list[Offer]) -> None:
    assert parse_extensions(values) == offers


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ",",
        ";",
        ";a",
        "a;",
        "a;;b",
        "a b",
        "a=1",
        "a; =1",
        "a; b=",
        "a; b= ",
        "a; b=1 2",
        "a; b=1=2",
        'a; b=""',
        'a; b="',
        'a; b="1',
        'a; b=1"',
        'a; b="1"2',
        'a; b="1 2"',
        'a; b="1\\"',
        'a; b="\\"',
        'a; b="\\""',
        'a; b="1,2"',
        'a; b="1;2"',
        'a; "b"=1',
        '"a"',
        "a; b='1 '",
        "a\n",
        "a; b\n",
        "a; b=1\n",
        "é",
        "a; é",
        "a; b=é",
        "a; b=\x00",
        "a; b=\u0661",
    ],
)
def test_malformed(value: str) -> None:
    with pytest.raises(ValueError, match="extension"):
        parse_extensions([value])
    with pytest.raises(ValueError, match="extension"):
        parse_extensions(["a", value])


def test_wsproto_c7_an_offer_inside_a_quoted_string_is_not_an_offer() -> None:
    value = 'x; y=",permessage-deflate,"'
    assert "permessage-deflate" in split_comma_header(value.encode())
    with pytest.raises(ValueError, match="malformed"):
        parse_extensions([value])


@pytest.mark.parametrize(("count", "allowed"), [(32, True), (33, False), (5000, False)])
def test_numbers_are_bounded(count: int, allowed: bool) -> None:
    for values in ([",".join("a" * count)], ["a"] * count, ["a" + ";b" * count]):
        if allowed:
            assert parse_extensions(values)
        else:
            with pytest.raises(ValueError, match="more than 32"):
                parse_extensions(values)


@pytest.mark.parametrize(
    ("start", "repeated", "end"),
    [
        ("", "a", "("),
        ("a;", " ", "("),
        ("a; b", " ", "("),
        ("a; b =", " ", "("),
        ('a; b="', "1", ""),
        ('a; b="', "\\1", ""),
        ('a; b="', "\\", ""),
        ("", ",", ""),
        ("", ";", ""),
    ],
)
def test_hostile_values_cost_linear_time(start: str, repeated: str, end: str) -> None:
    # At quadratic cost, a million characters would exceed the timeout of pytest.
    with pytest.raises(ValueError, match="extension"):
        parse_extensions([start + repeated * 1_000_000 + end])


TOKENS = st.text("abzAZ09!#$%&'*+-.^_`|~", min_size=1, max_size=6)
BLANKS = st.text(" \t", max_size=2)
OFFERS = st.lists(
    st.tuples(TOKENS, st.lists(st.tuples(TOKENS, st.none() | TOKENS), max_size=4)), min_size=1, max_size=4
)


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=12), st.text('ab,;="\\ \t', max_size=12)), max_size=3))
def test_any_text_is_offers_or_a_value_error(values: list[str]) -> None:
    try:
        offers = parse_extensions(values)
    except ValueError:
        return
    for name, parameters in offers:
        assert TOKEN.fullmatch(name)
        for key, value in parameters:
            assert TOKEN.fullmatch(key)
            assert value is None or TOKEN.fullmatch(value)


@settings(deadline=None)
@given(st.lists(OFFERS, max_size=2), st.data())
def test_encoded_offers_are_parsed_again(fields: list[list[Offer]], data: st.DataObject) -> None:
    def write(value: str | None) -> str:
        if value is None:
            return ""
        style = data.draw(st.sampled_from(["{}", '"{}"', '"\\{}"']))
        return data.draw(BLANKS) + "=" + data.draw(BLANKS) + style.format(value)

    values = [
        ",".join(
            ";".join(
                data.draw(BLANKS) + part + data.draw(BLANKS)
                for part in [name, *(key + write(value) for key, value in parameters)]
            )
            for name, parameters in offers
        )
        for offers in fields
    ]
    assert parse_extensions(values) == [offer for offers in fields for offer in offers]
