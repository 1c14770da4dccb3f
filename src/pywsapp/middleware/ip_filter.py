"""Middleware that decides by the client's IP address.

`pywsapp._addresses` documents how addresses are compared. Names are not looked up: `"localhost"` is refused as a
mistake, where Ratchet accepted it and never matched it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from pywsapp._addresses import Networks
from pywsapp.component import ComponentFactory, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request
from pywsapp.middleware.address_file import AddressFile, FilePath
from pywsapp.middleware.base import Application, HandshakeMiddleware


class IpFilter(HandshakeMiddleware):
    """Refuses handshakes and plain HTTP requests by the client's IP address, with status 403.

    The address is `request.remote_address`. The lists are checked at the handshake only: they cost nothing for a
    message, and connections that are open when their address is denied stay open.

    An address in `deny` or `deny_file` is refused. If there is an `allow` or an `allow_file`, every address outside
    them is refused too, and so is a client on a Unix socket, which has no address.

    The files have one address or network on each line; `#` begins a comment. They are read again within about a second
    after they have changed. A file with a mistake is logged, and the list from before stays in use.

    Args:
        component: the component or App inside, as for `HandshakeMiddleware`.
        allow: addresses (`"192.0.2.1"`, `"2001:db8::1"`) and networks (`"10.0.0.0/8"`); None allows all.
        deny: addresses and networks.
        allow_file: a file of further addresses and networks to allow.
        deny_file: a file of further addresses and networks to deny.

    Raises:
        ConfigurationError: `component` cannot be routed, an entry is no address or network, or a file cannot be read.
    """

    def __init__(
        self,
        component: MessageComponent | ComponentFactory | Application,
        *,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        allow_file: FilePath | None = None,
        deny_file: FilePath | None = None,
    ) -> None:
        super().__init__(component)
        self._allowed = None if allow is None else _networks("allow", allow)
        self._denied = _networks("deny", deny)
        self._allow_file = None if allow_file is None else AddressFile(allow_file)
        self._deny_file = None if deny_file is None else AddressFile(deny_file)
        self._files = [file for file in (self._allow_file, self._deny_file) if file is not None]

    def is_allowed(self, address: str) -> bool:
        """Return whether clients with an address are accepted."""
        if address in self._denied or (self._deny_file is not None and address in self._deny_file.networks):
            return False
        if self._allowed is None and self._allow_file is None:
            return True
        if self._allowed is not None and address in self._allowed:
            return True
        return self._allow_file is not None and address in self._allow_file.networks

    def check(self, request: Request) -> Awaitable[None] | None:
        """Refuse a request with status 403 if its address is not allowed."""
        changed = [file for file in self._files if file.is_due()]
        if changed:
            return self._check_again(request, changed)
        self._check_address(request)
        return None

    async def _check_again(self, request: Request, changed: list[AddressFile]) -> None:
        for file in changed:
            await file.reload()
        self._check_address(request)

    def _check_address(self, request: Request) -> None:
        if not self.is_allowed(request.remote_address):
            raise Refuse(403, body="your address is blocked")


class IpBlackList(IpFilter):
    """An `IpFilter` with one list of denied addresses, which can change at run time (Ratchet's IpBlackList).

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
        self._denied = _networks("blocked", blocked)

    def block(self, address: str) -> IpBlackList:
        """Block an address (`"192.0.2.1"`, `"2001:db8::1"`, `"192.0.2.1:8080"`) or a network (`"10.0.0.0/8"`).

        Returns:
            This IpBlackList, so that calls can be chained.

        Raises:
            ConfigurationError: `address` is neither an address nor a network.
        """
        self._denied.add(address)
        return self

    def unblock(self, address: str) -> IpBlackList:
        """Remove an entry, in any spelling; an entry that is not listed is ignored.

        Only this entry is removed: an address stays blocked while a network that contains it is listed.

        Returns:
            This IpBlackList, so that calls can be chained.

        Raises:
            ConfigurationError: `address` is neither an address nor a network.
        """
        self._denied.discard(address)
        return self

    def is_blocked(self, address: str) -> bool:
        """Return whether an address is listed, or in a listed network; False for text that is no address."""
        return address in self._denied

    @property
    def blocked(self) -> list[str]:
        """The entries in the order in which they were blocked, in their usual spelling."""
        return list(self._denied)


def _networks(name: str, addresses: Iterable[str]) -> Networks:
    if isinstance(addresses, str):
        raise ConfigurationError(f"{name} is a list: write [{addresses!r}]")
    networks = Networks()
    for address in addresses:
        networks.add(address)
    return networks
