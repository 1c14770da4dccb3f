"""Middleware that refuses listed IP addresses.

`pywsapp._addresses` documents how addresses are compared. Names are not looked up: `"localhost"` is refused as a
mistake, where Ratchet accepted it and never matched it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from pywsapp._addresses import Networks
from pywsapp.component import ComponentFactory, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request
from pywsapp.middleware.base import Application, HandshakeMiddleware


class IpBlackList(HandshakeMiddleware):
    """Refuses handshakes and plain HTTP requests of listed addresses with status 403 (Ratchet's IpBlackList).

    The address is `request.remote_address`. The list is checked at the handshake only: it costs nothing for a message,
    and connections that are open when their address is blocked stay open.

    Args:
        component: the component or App inside, as for `HandshakeMiddleware`.
        blocked: addresses and networks, as in `block`.

    Raises:
        ConfigurationError: `component` cannot be routed, or an entry of `blocked` is no address or network.
    """

    def __init__(
        self, component: MessageComponent | ComponentFactory | Application, blocked: Iterable[str] = ()
    ) -> None:
        super().__init__(component)
        self._blocked = Networks()
        if isinstance(blocked, str):
            raise ConfigurationError(f"blocked is a list: write [{blocked!r}]")
        for address in blocked:
            self.block(address)

    def block(self, address: str) -> IpBlackList:
        """Block an address (`"192.0.2.1"`, `"2001:db8::1"`, `"192.0.2.1:8080"`) or a network (`"10.0.0.0/8"`).

        Returns:
            This IpBlackList, so that calls can be chained.

        Raises:
            ConfigurationError: `address` is neither an address nor a network.
        """
        self._blocked.add(address)
        return self

    def unblock(self, address: str) -> IpBlackList:
        """Remove an entry, in any spelling; an entry that is not listed is ignored.

        Only this entry is removed: an address stays blocked while a network that contains it is listed.

        Returns:
            This IpBlackList, so that calls can be chained.

        Raises:
            ConfigurationError: `address` is neither an address nor a network.
        """
        self._blocked.discard(address)
        return self

    def is_blocked(self, address: str) -> bool:
        """Return whether an address is listed, or in a listed network; False for text that is no address."""
        return address in self._blocked

    @property
    def blocked(self) -> list[str]:
        """The entries in the order in which they were blocked, in their usual spelling."""
        return list(self._blocked)

    def check(self, request: Request) -> Awaitable[None] | None:
        """Refuse a request with status 403 if its address is blocked."""
        if self.is_blocked(request.remote_address):
            raise Refuse(403, body="your address is blocked")
        return None
