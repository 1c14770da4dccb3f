"""Close codes in words."""

from __future__ import annotations

from pywsapp.cli.tables import safe
from pywsapp.close_codes import CloseCode, ComeBack, come_back

_MEANINGS = {
    CloseCode.NORMAL: "the work is done",
    CloseCode.GOING_AWAY: "the server or the page goes away",
    CloseCode.PROTOCOL_ERROR: "a side broke the protocol",
    CloseCode.UNSUPPORTED_DATA: "a message of a kind that is not accepted, such as binary",
    CloseCode.NO_STATUS_RECEIVED: "the close frame had no code",
    CloseCode.ABNORMAL_CLOSURE: "the connection was lost without a close frame",
    CloseCode.INVALID_PAYLOAD: "a message with invalid content",
    CloseCode.POLICY_VIOLATION: "a rule of the server was broken",
    CloseCode.MESSAGE_TOO_BIG: "a message was too large",
    CloseCode.MANDATORY_EXTENSION: "the server lacks an extension",
    CloseCode.INTERNAL_ERROR: "an error of the server",
    CloseCode.SERVICE_RESTART: "the server restarts",
    CloseCode.TRY_AGAIN_LATER: "the server is busy, or the client reads too slowly",
    CloseCode.BAD_GATEWAY: "a gateway got an invalid answer",
    CloseCode.TLS_HANDSHAKE: "TLS failed",
    CloseCode.FORCED_DISCONNECT: "the server disconnected the user",
    CloseCode.UNAUTHENTICATED: "the credentials are missing or have expired",
}
_COME_BACK = {
    ComeBack.LATER: "clients come back later",
    ComeBack.WITH_CREDENTIALS: "clients come back with new credentials",
    ComeBack.NEVER: "clients do not come back",
}


def close_name(code: int | None) -> str:
    """Return the name of a close code: `1013 TRY_AGAIN_LATER`."""
    known = _known(code)
    return str(code) if known is None else f"{code} {known.name}"


def close_text(code: int | None, reason: str) -> str:
    """Return a line about the end of a connection: its code by name, its reason, and what clients do then."""
    known = _known(code)
    if known is not None:
        meaning = _MEANINGS[known]
    else:
        meaning = "a code of a library" if code is not None and code < 4000 else "a code of the application"
    said = f" ({safe(reason)})" if reason else ""
    return f"closed with {close_name(code)}{said}: {meaning}; {_COME_BACK[come_back(code)]}"


def _known(code: int | None) -> CloseCode | None:
    return next((known for known in CloseCode if known == code), None)
