"""Webhooks: signed HTTP requests that tell a site which topics and users come and go."""

from pywsapp.webhooks.options import WebhookOptions, WhenFull
from pywsapp.webhooks.sender import Webhook, WebhookStats

__all__ = ["Webhook", "WebhookOptions", "WebhookStats", "WhenFull"]
