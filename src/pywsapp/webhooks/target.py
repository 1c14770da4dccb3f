"""The arguments of `App.webhook`, checked."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable
from urllib.parse import SplitResult, urlsplit

from pywsapp._extras import import_extra
from pywsapp._log_fields import log_fields
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.names import TopicPattern
from pywsapp.topics.occupancy.changes import EVENT_TYPES, EventType
from pywsapp.webhooks.options import WebhookOptions
from pywsapp.webhooks.sender import Target, WebhookSender
from pywsapp.webhooks.signature import Secrets, keys_of

logger = logging.getLogger("pywsapp")

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
#: The characters of a URL (RFC 3986, section 2); other characters must be percent-encoded.
_URL = re.compile(r"[!-~]+")


def sender_of(
    url: str,
    secret: Secrets,
    events: Iterable[str],
    topics: Iterable[str],
    options: WebhookOptions | None,
    *,
    allow_http: bool,
) -> WebhookSender:
    """Return the sender of a webhook, for the arguments of `App.webhook`.

    Raises:
        ConfigurationError: an argument is not valid, or httpx is not installed.
    """
    if options is not None and not isinstance(options, WebhookOptions):
        raise ConfigurationError(f"the options of a webhook must be a WebhookOptions, not {options!r}")
    target = _target_of(url, secret, events, topics, allow_http=allow_http)
    open_client = import_extra("pywsapp.webhooks.with_httpx", "webhooks").open_client
    return WebhookSender(target, WebhookOptions() if options is None else options, open_client)


def _target_of(url: str, secret: Secrets, events: Iterable[str], topics: Iterable[str], *, allow_http: bool) -> Target:
    parts = _parts_of(url)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        if not allow_http:
            raise ConfigurationError(
                "a webhook needs an https URL, because a network can change what is sent over http; "
                "write allow_http=True if the network is yours"
            )
        logger.warning(
            "webhook %s is not encrypted (allow_http=True): a network can read its events",
            _shown(parts),
            extra=log_fields("webhook.not_encrypted", webhook=_shown(parts)),
        )
    patterns = [TopicPattern(text) for text in _names(topics, "topics", '["room:*"]')]
    return Target(url, _shown(parts), keys_of(secret), _types_of(events), patterns)


def _parts_of(url: str) -> SplitResult:
    if not isinstance(url, str) or not _URL.fullmatch(url):
        raise ConfigurationError("the URL of a webhook is a str such as 'https://site.example/hooks', without spaces")
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ConfigurationError("the URL of a webhook must be like 'https://site.example/hooks'")
    if parts.username is not None or parts.fragment:
        raise ConfigurationError("the URL of a webhook has a user, a password or a fragment, which are never sent")
    return parts


def _shown(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _names(names: Iterable[str], what: str, example: str) -> Collection[str]:
    found = () if isinstance(names, str) else tuple(names)
    if not found:
        raise ConfigurationError(f"{what} of a webhook is a list with at least one name, such as {example}")
    return found


def _types_of(events: Iterable[str]) -> frozenset[EventType]:
    names = _names(events, "events", '["topic_occupied"]')
    unknown = [name for name in names if name not in EVENT_TYPES]
    if unknown:
        raise ConfigurationError(f"a webhook has no event {unknown[0]!r}, only {', '.join(EVENT_TYPES)}")
    return frozenset(name for name in EVENT_TYPES if name in names)
