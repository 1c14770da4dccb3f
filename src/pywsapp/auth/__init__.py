"""Authentication: who a client is, decided before its connection is accepted.

    App(authenticate=...), app.route(..., authenticate=...), app.mount(..., authenticate=...), or the method
    `authenticate(self, request)` of a component

`authenticate` is a function, or one of the objects of this package. The order of the checks of a request: the origin
and the addresses, then `authenticate`, then `on_handshake`. The innermost `authenticate` that is given decides alone:
that of the component, then of the route, then of the mounts and Apps around it.

An authenticator returns the user, or None if the request has no credentials of its kind. It raises `InvalidCredentials`
if they are not valid.

Three modules are imported by themselves: `pywsapp.auth.jwt`, which needs `pip install 'pywsapp[jwt]'`,
`pywsapp.auth.django`, which needs Django, and `pywsapp.auth.first_message`, which is a middleware.
"""

from pywsapp.auth.api_keys import ApiKeyAuthenticator, hash_api_key, new_api_key
from pywsapp.auth.client_certificate import ClientCertificate, ClientCertificateAuthenticator
from pywsapp.auth.identity import Authenticated, public
from pywsapp.auth.signed_urls import SignedUrls
from pywsapp.auth.tickets import MemoryTicketStore, TicketAuthenticator, TicketIssuer, TicketStore
from pywsapp.auth.tokens import (
    BearerHeader,
    BearerSubprotocol,
    HeaderToken,
    QueryToken,
    TokenAuthenticator,
    TokenSource,
    first_of,
)

__all__ = (
    "ApiKeyAuthenticator",
    "Authenticated",
    "BearerHeader",
    "BearerSubprotocol",
    "ClientCertificate",
    "ClientCertificateAuthenticator",
    "HeaderToken",
    "MemoryTicketStore",
    "QueryToken",
    "SignedUrls",
    "TicketAuthenticator",
    "TicketIssuer",
    "TicketStore",
    "TokenAuthenticator",
    "TokenSource",
    "first_of",
    "hash_api_key",
    "new_api_key",
    "public",
)
