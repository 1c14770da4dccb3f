"""Any text is refused as a ticket; an issued ticket has its user once, wherever it is, and for its own page only."""

from __future__ import annotations

from typing import Any

from harness import check_status, fuzz, instrumented, result_of

with instrumented():
    from pywsapp._protocol.http import parse_request
    from pywsapp.auth.identity import Authenticated
    from pywsapp.auth.tickets import MemoryTicketStore, TicketAuthenticator, TicketIssuer
    from pywsapp.exceptions import ConfigurationError, InvalidCredentials, Refuse
    from pywsapp.http import Request

ORIGIN = "https://example.com"
NOW = 1000.0
#: Stands for the issued ticket in an input.
PLACE = b"TICKET"
USERS: list[Any] = ["ana", {"id": 7, "name": "Bär"}, Authenticated(["a"], expires_at=NOW + 1, subject="s")]


def request_of(fields: bytes) -> Request | None:
    head = b"GET /" + fields
    try:
        request = parse_request(head, max_headers=20, scheme="http", remote_address="")
    except Refuse:
        return None
    offers = ",".join(request.headers.getlist("sec-websocket-protocol")).split(",")
    request.subprotocols = tuple(offer for text in offers if (offer := text.strip(" \t")))
    return request


def redeemed(issuer: TicketIssuer, ticket: str, origins: list[str]) -> Authenticated | None:
    try:
        return result_of(issuer.redeem(ticket, Request(headers=[("Origin", origin) for origin in origins])))
    except InvalidCredentials:
        return None


def authenticated(authenticator: TicketAuthenticator, request: Request) -> Authenticated | None:
    try:
        found = authenticator(request)
        return None if found is None else result_of(found)  # type: ignore[arg-type]
    except Refuse as exc:  # InvalidCredentials is one
        check_status(exc, 400, 401)
        return None


def one_input(data: bytes) -> None:
    """Run one input: a byte of choices, and the request line and fields of a handshake with the ticket in them."""
    if not data:
        return
    user, rest = USERS[data[0] % 3], data[1:]
    origin = ORIGIN if data[0] & 64 else None
    store = MemoryTicketStore(max_tickets=3, clock=lambda: NOW)
    issuer = TicketIssuer(store)
    authenticator = TicketAuthenticator(issuer)
    text = rest.decode("utf-8", "surrogateescape")
    assert redeemed(issuer, text, [ORIGIN]) is None, "a ticket was guessed"
    ticket = result_of(issuer.issue(user, origin=origin))
    expected = user if isinstance(user, Authenticated) else Authenticated(user)
    request = request_of(rest.replace(PLACE, ticket.encode()))
    if request is not None:
        origins = request.headers.getlist("origin")
        found = authenticated(authenticator, request)
        if found is not None:
            assert PLACE in rest
            assert found == expected
            assert origin is None or origins == [origin]
            assert "ticket" not in request.query_params
            assert not any(offer.startswith("ticket.") for offer in request.subprotocols)
    elif len(text) < 100:
        assert redeemed(issuer, ticket, [ORIGIN]) == expected
    assert redeemed(issuer, ticket, [ORIGIN]) is None or len(store) == 0, "a ticket is used once"
    assert redeemed(issuer, ticket, [ORIGIN]) is None, "a ticket is used once"
    check_users(issuer, text)


def check_users(issuer: TicketIssuer, text: str) -> None:
    """Check that any text can be the user of a ticket and its origin."""
    try:
        ticket = result_of(issuer.issue({text: [text]}, origin=text))
    except ConfigurationError:
        assert len(text) > 100
        return
    found = redeemed(issuer, ticket, [text])
    assert found is not None
    assert found.user == {text: [text]}


def seeds() -> list[bytes]:
    fields = [
        b"?ticket=TICKET HTTP/1.1\r\nHost: x\r\nOrigin: https://example.com",
        b"?ticket=TICKET&ticket=x HTTP/1.1\r\nHost: x",
        b"?a=b&tic%6bet=TICKET&c=d HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example",
        b" HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: chat, ticket, ticket.TICKET\r\nOrigin: https://example.com",
        b"?ticket=TICKET HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: ticket.TICKET",
        b"?ticket=TICKETx HTTP/1.1\r\nHost: x",
        b"?ticket=%54ICKET%00 HTTP/1.1\r\nHost: x\r\nOrigin: null",
        b"?ticket= HTTP/1.1\r\nHost: x",
        b"\xff",
        b"x" * 3000,
    ]
    return [bytes((choice,)) + field for choice in (0, 1, 64, 66) for field in fields]


if __name__ == "__main__":
    fuzz(one_input, seeds())
