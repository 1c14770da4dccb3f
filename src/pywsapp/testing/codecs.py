"""Checks of the port to codecs: what pywsapp relies on.

from pywsapp.testing import CODEC_CHECKS, check_codec

@pytest.mark.parametrize("check", CODEC_CHECKS.values(), ids=CODEC_CHECKS.keys())
async def test_my_codec(check):
    await check(MyCodec)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pywsapp._protocol.http import TOKEN
from pywsapp.codecs.base import Codec
from pywsapp.exceptions import InvalidMessage
from pywsapp.testing.checks import run_checks

#: Makes the codec that is checked.
MakeCodec = Callable[[], Codec]
CodecCheck = Callable[[MakeCodec], Awaitable[None]]

_OBJECTS: tuple[dict[str, Any], ...] = (
    {},
    {"": ""},
    {"type": "say", "text": "Zürich \0 \N{GRINNING FACE} \u2028", "to": ["a", "b"], "at": None},
    {"id": 7, "params": {"a": [True, False, None, 1, -1, 2.5, 0.0, -1e300, 2**53, -(2**53)]}},
    {"a": {"a": {"a": [[[[]], {}], [{"a": [1]}]]}}},
    {f"key {number}": "x" * number for number in range(300)},
)
#: Invalid data in all usual formats, and deep nesting in JSON, MessagePack and CBOR.
_GARBAGE: tuple[bytes, ...] = (
    b"",
    b"\xff",
    b"{",
    b"nul",
    b'{"a"',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\x91" * 100_000,
    b"\x81\xa1a" * 100_000,
    b"\x81" * 100_000,
    b"\xa1\x61a" * 100_000,
    b"\x9f" * 100_000,
    b"\xdd\xff\xff\xff\xff",
    b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x7b\x7f\xff\xff\xff\xff\xff\xff\xff",
    bytes(range(256)),
)
_SLICES = 200
_MAX_TEXT = 1000


async def its_name_is_a_subprotocol(make: MakeCodec) -> None:
    """A client chooses the codec by its name."""
    codec = make()
    assert isinstance(codec.name, str), f"{codec.name!r} is no text"
    assert TOKEN.fullmatch(codec.name), f"{codec.name!r} cannot be a subprotocol"


async def messages_are_of_one_kind(make: MakeCodec) -> None:
    """`is_binary` says whether `encode` returns bytes or a str; an error message can be of another kind."""
    codec = make()
    expected = bytes if codec.is_binary else str
    for value in _OBJECTS:
        message = codec.encode(value)
        assert type(message) is expected, f"encode returned {type(message).__name__}, not {expected.__name__}"
    assert type(codec.encode_error({"type": "error"})) in (str, bytes)


async def objects_come_back_as_they_were(make: MakeCodec) -> None:
    """`decode` returns equal values of the same types."""
    codec = make()
    for value in _OBJECTS:
        found = codec.decode(codec.encode(value))
        assert found == value, f"{found!r:.200} came back for {value!r:.200}"
        assert repr(found) == repr(value), f"{found!r:.200} came back for {value!r:.200}"


async def what_it_cannot_encode_raises_a_type_error(make: MakeCodec) -> None:
    """An object without a form is a mistake of the program."""
    codec = make()
    for value in (object(), {"a": object()}, {"a": [open]}):
        try:
            codec.encode(value)
        except TypeError:
            continue
        raise AssertionError(f"encode accepted {value!r}")


async def garbage_is_an_invalid_message(make: MakeCodec) -> None:
    """`decode` raises InvalidMessage for what it cannot read, deep nesting included, and nothing else."""
    codec = make()
    for data in _GARBAGE:
        _decode(codec, data if codec.is_binary else data.decode("latin-1"))
    whole = codec.encode(_OBJECTS[2])
    for end in range(min(len(whole), _SLICES)):
        _decode(codec, whole[:end])


async def messages_of_the_other_kind_are_invalid(make: MakeCodec) -> None:
    """A binary codec reads no text, and the other way round."""
    codec = make()
    for message in ("", "{}", "\x80") if codec.is_binary else (b"", b"{}", b"\x80"):
        assert _decode(codec, message), f"decode accepted {message!r}"


async def what_follows_a_value_is_invalid(make: MakeCodec) -> None:
    """A message is one value."""
    codec = make()
    twice: Any = codec.encode({"a": 1})
    assert _decode(codec, twice + twice), "decode accepted two values in one message"


async def decoders_check_that_a_dict_is_an_object(make: MakeCodec) -> None:
    """`decoder(dict)` refuses other values."""
    codec = make()
    decode = codec.decoder(dict)
    assert decode(codec.encode({"a": 1})) == {"a": 1}
    for value in ([1], "text", None, 3):
        try:
            decode(codec.encode(value))
        except InvalidMessage:
            continue
        raise AssertionError(f"decoder(dict) accepted {value!r}")


def _decode(codec: Codec, message: str | bytes) -> bool:
    """Decode a message; return whether it is invalid."""
    try:
        codec.decode(message)
    except InvalidMessage as exc:
        text = str(exc)
    except Exception as exc:
        raise AssertionError(f"decode raised {type(exc).__name__} for {message[:20]!r}") from exc
    else:
        return False
    assert 0 < len(text) < _MAX_TEXT, f"the text of an InvalidMessage has 1 to {_MAX_TEXT} characters, not {len(text)}"
    return True


#: The checks by their names, which are the rules.
CODEC_CHECKS: dict[str, CodecCheck] = {
    check.__name__: check
    for check in (
        its_name_is_a_subprotocol,
        messages_are_of_one_kind,
        objects_come_back_as_they_were,
        what_it_cannot_encode_raises_a_type_error,
        garbage_is_an_invalid_message,
        messages_of_the_other_kind_are_invalid,
        what_follows_a_value_is_invalid,
        decoders_check_that_a_dict_is_an_object,
    )
}


async def check_codec(make: MakeCodec) -> None:
    """Check a codec of your own against every rule that pywsapp relies on; `ProtobufCodec` reads no objects.

    Args:
        make: a function without arguments that makes the codec, or its class.

    Raises:
        AssertionError: a rule is broken; the message begins with the rule.
    """
    await run_checks(CODEC_CHECKS, make, "the codec")
