"""The log lines of an App that has started."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence

from pywsapp._compiled import build_hint
from pywsapp._event_loop import loop_name
from pywsapp._log_fields import log_fields
from pywsapp._process.urls import urls_of
from pywsapp._server.bind import ListeningSocket
from pywsapp._server.tls_reload import ReloadingTls
from pywsapp._version import __version__
from pywsapp.component import MessageComponent
from pywsapp.routing.guards import log_guards, log_origins

logger = logging.getLogger("pywsapp")


def announce(
    component: MessageComponent,
    http_host: str | Sequence[str],
    addresses: Iterable[tuple[ListeningSocket, str]],
    workers: str = "",
) -> None:
    """Log the start-up line, and what deserves attention.

    Args:
        component: the router of the App.
        http_host: the name or names of the App.
        addresses: the listening sockets and their addresses.
        workers: what to say about workers.
    """
    addresses = list(addresses)
    urls = " ".join(urls_of(addresses, http_host))
    hint = f" ({hint})" if (hint := build_hint()) else ""
    logger.info(
        "pywsapp %s%s on %s: %s%s",
        __version__,
        workers,
        loop_name(),
        urls,
        hint,
        extra=log_fields("server.started", urls=urls, version=__version__, event_loop=loop_name()),
    )
    log_guards(component)
    log_origins(component)
    _log_certificates([listener for listener, _ in addresses])


def _log_certificates(listeners: Iterable[ListeningSocket]) -> None:
    """Warn about a certificate for development, once."""
    found = [tls for listener in listeners if isinstance(tls := listener.tls, ReloadingTls)]
    for tls in [tls for tls in found if tls.settings.is_self_signed][:1]:
        logger.warning(
            "the TLS certificate is self-signed, for development only; its SHA-256 fingerprint is %s; clients can "
            "trust its file, %s",
            tls.fingerprint,
            os.fspath(tls.settings.certificate),
            extra=log_fields("tls.self_signed", file=os.fspath(tls.settings.certificate)),
        )
