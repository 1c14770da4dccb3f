"""Addresses that are refused.

How addresses are compared is told in `values.networks`. Names are not looked up; `"localhost"` is refused as a mistake,
where Ratchet took it and never matched it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from pywsapp._addresses import Networks
from pywsapp.component import ComponentFactory, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.middleware.base import HandshakeMiddleware


class IpBlackList(HandshakeMiddleware):
    """Refuses handshakes and plain requests of listed addresses with 403 (Ratchet's IpBlackList).

    It decides at the handshake and then hands over, so it costs nothing per message; connections that are open
    when their address is blocked stay open. It goes by `request.remote_address`.

    Args:
        component: what the others reach: a component, or a class or function that makes one for each connection.
        blocked: addresses and networks, as in `block`.

    Raises:
        ConfigurationError: no component, or no address.
    """

    def __init__(self, component: MessageComponent | ComponentFactory, blocked: Iterable[str] = ()) -> None:
        super().__init__(component)
        self._blocked = Networks()
        if isinstance(blocked, str):
            raise ConfigurationError(f"blocked is a list: write [{blocked!r}]")
        for address in blocked:
            self.block(address)

    def block(self, address: str) -> IpBlackList:
        """Block an address (`"192.0.2.1"`, `"2001:db8::1"`, `"192.0.2.1:8080"`) or a network (`"10.0.0.0/8"`).

        Returns:
            the list itself.

        Raises:
            ConfigurationError: it is neither.
        """
        self._blocked.add(address)
        return self

    def unblock(self, address: str) -> IpBlackList:
        """Take an entry off the list, in any spelling; nothing happens if there is no such entry.

        Only that entry: an address stays blocked while a network that holds it is listed.

        Returns:
            the list itself.

        Raises:
            ConfigurationError: it is neither an address nor a network.
        """
        self._blocked.discard(address)
        return self

    def is_blocked(self, address: str) -> bool:
        """Tell whether an address is on the list or in a listed network; what is no address never is."""
        return address in self._blocked

    @property
    def blocked(self) -> list[str]:
        """The entries in the order in which they were blocked, in their usual spelling."""
        return list(self._blocked)

    def check(self, request: Request) -> None:
        """Refuse a handshake with 403 if the address is blocked."""
        if self.is_blocked(request.remote_address):
            raise Refuse(403, body="your address is blocked")

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Hand a plain request over, unless the address is blocked."""
        self.check(request)
        return super().on_request(request)
