"""Security schemes: how a client authenticates, as far as its authenticator shows it."""

from __future__ import annotations

from typing import Any

from pywsapp.auth.client_certificate import ClientCertificateAuthenticator
from pywsapp.auth.tokens import BaseTokenAuthenticator, BearerHeader, BearerSubprotocol, HeaderToken, QueryToken


def security_of(guard: Any) -> dict[str, dict[str, Any]]:
    """Return the schemes of a guard by their names; a client needs one of them. None for a guard that is not known."""
    if isinstance(guard, ClientCertificateAuthenticator):
        return {"clientCertificate": {"type": "X509", "description": "A client certificate of TLS."}}
    if not isinstance(guard, BaseTokenAuthenticator):
        return {}
    return dict(found for source in guard.sources if (found := _scheme_of(source)) is not None)


def _scheme_of(source: Any) -> tuple[str, dict[str, Any]] | None:
    if isinstance(source, BearerHeader):
        text = "A token in the field Authorization, for clients that are not browsers."
        return "bearerHeader", {"type": "http", "scheme": "bearer", "description": text}
    if isinstance(source, HeaderToken):
        return f"header-{source._name}", {"type": "httpApiKey", "in": "header", "name": source._name}
    if isinstance(source, QueryToken):
        return f"query-{source._name}", {"type": "httpApiKey", "in": "query", "name": source._name}
    if isinstance(source, BearerSubprotocol):
        name = source._name
        return f"subprotocol-{name}", {
            "type": "httpApiKey",
            "in": "header",
            "name": "Sec-WebSocket-Protocol",
            "description": f'The subprotocols "{name}" and "{name}.<token>", for browsers.',
        }
    return None
