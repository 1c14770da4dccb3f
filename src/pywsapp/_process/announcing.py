"""What the log says when an App has started."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from pywsapp._compiled import build_hint
from pywsapp._event_loop import loop_name
from pywsapp._process.urls import urls_of
from pywsapp._server.bind import ListeningSocket
from pywsapp._version import __version__
from pywsapp.component import MessageComponent
from pywsapp.routing.guards import log_guards

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
    urls = " ".join(urls_of(addresses, http_host))
    hint = f" ({hint})" if (hint := build_hint()) else ""
    logger.info("pywsapp %s%s on %s: %s%s", __version__, workers, loop_name(), urls, hint)
    log_guards(component)
