"""Valid names of topics, and what a pattern matches."""

from __future__ import annotations

import time
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp.exceptions import ConfigurationError, TopicError
from pywsapp.topics.names import MAX_NAME_BYTES, TopicPattern, check_name
from pywsapp.topics.registry import TopicRegistry

SWAP = str.maketrans(":.", ".:")

#: Text of the characters with a meaning for a broker, and of any others.
TEXT = st.text(st.one_of(st.sampled_from(":.#>*/ a\n\0\ud800\u200bü\u00a0"), st.characters()), max_size=12)


def fault_of(text: str) -> str:
    try:
        assert check_name(text) == text
    except TopicError as exc:
        return str(exc)
    return ""


CHARACTERS = st.characters(exclude_categories=("C", "Z"), exclude_characters="*:")
PARTS = st.text(st.one_of(st.sampled_from(".#>/aü"), CHARACTERS), min_size=1, max_size=6)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map(":".join).filter(lambda text: not fault_of(text))


@given(NAMES)
def test_a_name_becomes_words_of_a_broker_and_comes_back(name: str) -> None:
    swapped = name.translate(SWAP)
    assert swapped.translate(SWAP) == name
    words = swapped.split(".")
    assert all(words), "NATS has no empty tokens"
    assert not {"#", ">", "*"}.intersection(words), "they stand for other words"
    assert not any(character.isspace() for character in swapped)
    assert len(swapped.encode()) == len(name.encode()) <= MAX_NAME_BYTES


@given(TEXT)
def test_an_invalid_name_is_refused_with_a_reason(text: str) -> None:
    fault = fault_of(text)
    assert not fault or "cannot be the name of a topic" in fault
    assert fault.isprintable(), "it may be logged, and sent to a client"
    fault.encode()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "1 to 200 bytes"),
        ("a" * (MAX_NAME_BYTES + 1), "1 to 200 bytes"),
        ("ü" * (MAX_NAME_BYTES // 2) + "a", "1 to 200 bytes"),
        ("a b", "whitespace"),
        ("a\tb", "whitespace"),
        ("a\u00a0b", "whitespace"),
        ("a\u3000b", "whitespace"),
        ("a\r\nb", "whitespace"),
        ("a\0b", "control"),
        ("a\x7fb", "control"),
        ("a\ud800b", "control"),
        ("\u202egnp.exe", "control"),
        ("a*", "\\* are not allowed"),
        ("room:*", "\\* are not allowed"),
        (":", "no part between its colons may be empty"),
        (":a", "no part between its colons may be empty"),
        ("a:", "no part between its colons may be empty"),
        ("a::b", "no part between its colons may be empty"),
        ("#", "# or >"),
        ("a:#:b", "# or >"),
        ("a:>", "# or >"),
        ("$pywsapp:alive", "names that begin with \\$pywsapp: are reserved"),
        ("$pywsapp:x:y", "names that begin with \\$pywsapp: are reserved"),
    ],
)
def test_invalid_names(name: str, fault: str) -> None:
    with pytest.raises(TopicError, match=fault):
        check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a:b.c",
        "..",
        "#general",
        "c#",
        ">>",
        "a>b",
        "Zürich",
        "部屋:四",
        "$SYS",
        "$",
        "-",
        "$pywsapp",
        "$pywsapp.alive",
        "a:$pywsapp:b",
    ],
)
def test_valid_names(name: str) -> None:
    assert check_name(name) == name


def test_the_limit_is_in_bytes() -> None:
    assert check_name("a" * MAX_NAME_BYTES)
    assert check_name("ü" * (MAX_NAME_BYTES // 2))
    assert check_name("😀" * (MAX_NAME_BYTES // 4))
    with pytest.raises(TopicError):
        check_name("😀" * (MAX_NAME_BYTES // 4) + "a")


@pytest.mark.parametrize("junk", [None, 42, b"room:1", ["room:1"], {"a": 1}, object(), bytearray(b"x"), float("nan")])
def test_a_name_must_be_text(junk: Any) -> None:
    with pytest.raises(TopicError, match="a topic's name is a str, not"):
        check_name(junk)
    with pytest.raises(TopicError, match="a topic's name is a str, not"):
        TopicRegistry().topic(junk)


class Room(str, Enum):
    LOBBY = "room:lobby"


def test_a_member_of_an_enum_names_the_same_topic_as_its_text() -> None:
    assert type(check_name(Room.LOBBY)) is str
    registry = TopicRegistry()
    topic = registry.topic(Room.LOBBY)
    assert topic is registry.topic("room:lobby")
    assert f"{topic.name}" == "room:lobby"


@pytest.mark.parametrize("character", ["a", ":", "\ud800", "😀", "*"])
def test_a_huge_text_is_refused_at_once(character: str) -> None:
    text = character * 20_000_000
    began = time.process_time()
    for _ in range(100):
        with pytest.raises(TopicError) as info:
            check_name(text)
    assert time.process_time() - began < 0.5
    assert len(str(info.value)) < 1000


# -- patterns ----------------------------------------------------------------------------------------------------------


@given(NAMES, NAMES)
def test_a_pattern_matches_names_below_it(base: str, name: str) -> None:
    try:
        pattern = TopicPattern(f"{base}:*")
    except ConfigurationError:  # too long with a colon and one more character
        return
    assert pattern.matches(name) == (name.split(":")[: base.count(":") + 1] == base.split(":") and name != base)
    assert not pattern.matches(base)
    assert not pattern.matches(base + name), "it ends at a colon"
    assert pattern.matches(f"{base}:{name}")
    assert TopicPattern("*").matches(name)
    assert TopicPattern(base).matches(name) == (base == name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "room*",
        "*:room",
        "room:*:x",
        "**",
        "room:**",
        "room::*",
        ":*",
        "a b:*",
        "#:*",
        ">",
        "#",
        "room:",
        "*:*",
        "$pywsapp:alive",
        "$pywsapp:*",
    ],
)
def test_invalid_patterns(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a topic pattern such as 'room:\\*'"):
        TopicPattern(text)


@pytest.mark.parametrize("junk", [None, 3, b"room:*", ["*"]])
def test_a_pattern_must_be_text(junk: Any) -> None:
    with pytest.raises(ConfigurationError, match="a topic pattern is a str"):
        TopicPattern(junk)
