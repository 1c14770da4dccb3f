"""The Sec-WebSocket-Extensions field as a list of offers (RFC 6455 section 9.1).

    extension-list  = 1#( extension-token *( ";" extension-param ) )
    extension-param = token [ "=" ( token | quoted-string ) ]

The content of a quoted string must be a token after unquoting, so no valid quoted string contains a comma or semicolon.
Plain splitting is therefore enough: it can only cut a quoted string that is malformed anyway, and then refuses the
parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pywsapp._protocol.http import TOKEN, TOKEN_CHARS

#: The name of an extension, and its parameters in order; the value of a parameter without one is None.
Offer = tuple[str, list[tuple[str, "str | None"]]]

_MAX_OFFERS = 32
_MAX_PARAMETERS = 32  # of one offer; permessage-deflate, the only extension in use, has four
_PARAMETER = re.compile(
    rf'([{TOKEN_CHARS}]+)(?:[ \t]*=[ \t]*(?:([{TOKEN_CHARS}]+)|"((?:\\?[{TOKEN_CHARS}])+)"))?',
)


def parse_extensions(values: Iterable[str]) -> list[Offer]:
    """Parse all Sec-WebSocket-Extensions fields of a head.

    Args:
        values: the value of each field, in order.

    Returns:
        the offers in order, with repeated extensions and repeated parameters.

    Raises:
        ValueError: a field is malformed or empty, or there are more than 32 offers or 32 parameters in one.
    """
    offers: list[Offer] = []
    for value in values:
        before = len(offers)
        for element in value.split(","):
            if element := element.strip(" \t"):
                offers.append(_parse_offer(element))
                if len(offers) > _MAX_OFFERS:
                    raise ValueError(f"more than {_MAX_OFFERS} extensions")
        if len(offers) == before:
            raise ValueError("an empty list of extensions")
    return offers


def _parse_offer(text: str) -> Offer:
    name, *rest = text.split(";", _MAX_PARAMETERS + 1)
    name = name.rstrip(" \t")
    if TOKEN.fullmatch(name) is None:
        raise ValueError("an extension has a malformed name")
    if len(rest) > _MAX_PARAMETERS:
        raise ValueError(f"an extension has more than {_MAX_PARAMETERS} parameters")
    return name, [_parse_parameter(parameter.strip(" \t")) for parameter in rest]


def _parse_parameter(text: str) -> tuple[str, str | None]:
    match = _PARAMETER.fullmatch(text)
    if match is None:
        raise ValueError("an extension has a malformed parameter")
    name, token, quoted = match.groups()
    return name, token if quoted is None else quoted.replace("\\", "")
