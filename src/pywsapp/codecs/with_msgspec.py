"""Reading and writing with msgspec; imported on demand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pywsapp._extras import missing_extra
from pywsapp.codecs.dumping import dumped
from pywsapp.codecs.kinds import is_pydantic, name_of_kind
from pywsapp.exceptions import ConfigurationError, InvalidMessage

try:
    import msgspec
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "msgspec") from exc

_AT = " - at `"
_KEY = "key` in `"
TOO_DEEP = "the message is nested too deeply"


def invalid(exc: Exception) -> InvalidMessage:
    """Return the exception for what msgspec says of a message."""
    if isinstance(exc, RecursionError):
        return InvalidMessage(TOO_DEEP)
    text, _, path = str(exc).rpartition(_AT)
    if not text:
        return InvalidMessage(path)
    return InvalidMessage(text, path.removeprefix(_KEY).rstrip("`"))


def _guarded(decode: Callable[[Any], Any], *, is_binary: bool) -> Callable[[str | bytes], Any]:
    def read(message: str | bytes) -> Any:
        try:
            if type(message) is not expected:
                raise InvalidMessage(f"a {wanted} message was expected")
            return decode(message)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
            raise invalid(exc) from None

    expected, wanted = (bytes, "binary") if is_binary else (str, "text")
    return read


def json_decoder(kind: Any) -> Callable[[str | bytes], Any]:
    """Return a function that reads JSON of one type."""
    return _guarded(_made(lambda: msgspec.json.Decoder(kind, dec_hook=_other_type), kind).decode, is_binary=False)


def message_pack_decoder(kind: Any) -> Callable[[str | bytes], Any]:
    """Return a function that reads MessagePack of one type."""
    made = _made(lambda: msgspec.msgpack.Decoder(kind, dec_hook=_other_type, ext_hook=_refuse_extension), kind)
    return _guarded(made.decode, is_binary=True)


def converter(kind: Any, *, is_text: bool) -> Callable[[Any], Any]:
    """Return a function that makes an object of one type from what a codec has read."""
    _made(lambda: msgspec.json.Decoder(kind, dec_hook=_other_type), kind)  # checks the type

    def convert(value: Any) -> Any:
        try:
            return msgspec.convert(value, kind, str_keys=is_text, dec_hook=_other_type)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise invalid(exc) from None

    return convert


def arguments_type(name: str, fields: list[tuple[Any, ...]]) -> Any:
    """Return a Struct for the arguments of a function: pairs of a name and a type, with a default value if any.

    Raises:
        ConfigurationError: msgspec cannot read one of the types.
    """
    kind = msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)
    _made(lambda: msgspec.json.Decoder(kind, dec_hook=_other_type), name)
    return kind


def _made(make: Callable[[], Any], kind: Any) -> Any:
    try:
        return make()
    except (TypeError, NameError) as exc:
        raise ConfigurationError(f"msgspec cannot read {name_of_kind(kind)}: {exc}") from None


def _refuse_extension(code: int, data: memoryview) -> Any:
    raise InvalidMessage(f"the extension type {code} is not known")


def _other_type(kind: Any, value: Any) -> Any:
    """Make an object of a class that msgspec does not know: a model of pydantic inside of another type."""
    if is_pydantic(kind):
        return kind.__pydantic_validator__.validate_python(value)  # raises a ValueError, which msgspec reports
    raise TypeError(f"{name_of_kind(kind)} cannot be read from a message")


encode_json = functools.partial(msgspec.json.encode, enc_hook=dumped)
encode_message_pack = functools.partial(msgspec.msgpack.encode, enc_hook=dumped)
decode_json = json_decoder(Any)
decode_message_pack = message_pack_decoder(Any)
