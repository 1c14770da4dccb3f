"""Close codes: which ones exist, what a client does after each, and which ones can be sent (RFC 6455 section 7.4).

codes        whose                     a client comes back
-----------  ------------------------  ----------------------------------------------------------
1000         RFC 6455                  no: the work is done
1002, 1003,  RFC 6455                  no: the same would happen again
1007 - 1010
other 1xxx   RFC 6455, IANA            later
3000 - 3499  libraries and frameworks  later
3500 - 3999  libraries and frameworks  no
3503         pywsapp, Centrifugo       no: the server has disconnected the user
4401         pywsapp                   with new credentials: those of the connection have expired
other 4xxx   the application           later, unless the application says something else
"""

from __future__ import annotations

from enum import Enum, IntEnum

from pywsapp.exceptions import ConfigurationError

__all__ = ("CloseCode", "ComeBack", "come_back")

#: A control frame carries at most 125 bytes, and the close code takes two of them (RFC 6455 section 5.5).
MAX_REASON_BYTES = 123


class CloseCode(IntEnum):
    """The registered close codes (RFC 6455 section 7.4.1 and the IANA registry), and two of this library."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015
    FORCED_DISCONNECT = 3503
    UNAUTHENTICATED = 4401


class ComeBack(Enum):
    """The behaviour of a client after a connection has ended."""

    LATER = "later"  #: it connects again, after a random pause that grows with each failure
    WITH_CREDENTIALS = "with new credentials"  #: it gets a new token or ticket first, or has the user log in
    NEVER = "never"  #: it does not connect again


_FINAL = frozenset(
    {
        CloseCode.NORMAL,
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.INVALID_PAYLOAD,
        CloseCode.POLICY_VIOLATION,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.MANDATORY_EXTENSION,
    }
)


def come_back(code: int | None) -> ComeBack:
    """Return what a client does after a connection has ended with a close code; None for a code that is not known."""
    if code == CloseCode.UNAUTHENTICATED:
        return ComeBack.WITH_CREDENTIALS
    if code is not None and (code in _FINAL or 3500 <= code <= 3999):
        return ComeBack.NEVER
    return ComeBack.LATER


def may_be_sent(code: int) -> bool:
    """Return whether a close frame may carry a code: 1000-1003, 1007-1014 and 3000-4999."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def check_close(code: int, reason: str) -> bytes:
    """Check the arguments of a `close` call, and return the reason as UTF-8.

    Args:
        code: the close code.
        reason: a text for the peer, at most 123 bytes of UTF-8.

    Raises:
        ConfigurationError: the code may not be sent, or the reason is not text, is too long or cannot be encoded.
    """
    if not isinstance(code, int) or not may_be_sent(code):
        raise ConfigurationError(f"close code {code!r} may not be sent: use 1000-1003, 1007-1014 or 3000-4999")
    if not isinstance(reason, str):
        raise ConfigurationError(f"the close reason must be a str, not {reason!r}")
    try:
        encoded = reason.encode()
    except UnicodeEncodeError as exc:
        raise ConfigurationError(f"the close reason cannot be encoded as UTF-8: {exc}") from None
    if len(encoded) > MAX_REASON_BYTES:
        raise ConfigurationError(f"the close reason takes {len(encoded)} bytes; a close frame holds {MAX_REASON_BYTES}")
    return encoded


def cut_reason(text: str) -> str:
    """Return as much of a text as a close frame holds, cut between characters; `check_close` accepts the result.

    A surrogate, which has no UTF-8 form, becomes a question mark.
    """
    return text.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode(errors="ignore")
