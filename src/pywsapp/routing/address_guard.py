"""A guard of pages for operators that accepts only some addresses: the metrics, and the status page."""

from __future__ import annotations

from collections.abc import Iterable

from pywsapp._addresses import Networks
from pywsapp._http_text import one_line
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request


class AddressGuard:
    """Accepts requests from some addresses only.

    A proxy that the App does not know makes all clients look like one on the address of the proxy, often 127.0.0.1. So
    requests that a proxy has marked as forwarded are refused while the App has no `trusted_proxies`.

    Args:
        entries: IP addresses and networks.
        what: what is guarded, for the refusal: "the metrics are".

    Raises:
        ConfigurationError: there are no entries, or one is not valid.
    """

    def __init__(self, entries: object, what: str) -> None:
        if isinstance(entries, (str, bytes)) or not isinstance(entries, Iterable):
            shown = one_line(repr(entries))
            hint = f": write [{shown}]" if isinstance(entries, str) and entries[:1].isdigit() else f", not {shown}"
            raise ConfigurationError(f"guard is an authenticator, or a list of IP addresses and networks{hint}")
        self._what = what
        self._networks = Networks()
        for entry in entries:
            self._networks.add(entry)
        if not self._networks:
            raise ConfigurationError("guard is an empty list, which lets no client pass: write addresses")

    def check(self, request: Request) -> None:
        """Check the address of a request.

        Raises:
            Refuse: it may not pass.
        """
        if request.remote_address not in self._networks:
            raise Refuse(403, body=f"{self._what} not for your address")
        runner = getattr(request.app, "_runner", None)
        server = None if runner is None else runner.server
        if server is None or server.proxies or not server.sockets:  # without sockets, an ASGI server knows the proxies
            return
        if "x-forwarded-for" in request.headers:
            raise Refuse(403, body="a proxy has forwarded this request: add its address to trusted_proxies of the App")
