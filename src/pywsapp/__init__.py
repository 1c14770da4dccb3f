"""Real-time WebSocket applications: subclass MessageComponent, route it on an App, run it on asyncio or trio."""

import pywsapp._compiled  # noqa: F401 - first: it decides which build the others are imported from

# isort: split
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp._version import __version__
from pywsapp.app import App
from pywsapp.brokers.base import Broker
from pywsapp.client import ClientConnection, connect, run_client
from pywsapp.close_codes import CloseCode
from pywsapp.component import Accept, EchoServer, MessageComponent, in_thread
from pywsapp.connection import Connection, broadcast
from pywsapp.exceptions import (
    BrokerUnavailable,
    ConfigurationError,
    ConnectionClosed,
    HandshakeError,
    PywsappError,
    Refuse,
    TopicError,
)
from pywsapp.http import Headers, QueryParams, Request, Response
from pywsapp.middleware.base import ComponentMiddleware, HandshakeMiddleware
from pywsapp.middleware.ip_filter import IpBlackList
from pywsapp.middleware.origin import OriginCheck
from pywsapp.options import Deflate, Options, SlowConsumer
from pywsapp.publisher import AsyncPublisher, Publisher
from pywsapp.routing.router import Router
from pywsapp.routing.static import StaticFolder
from pywsapp.topics.history.recovery import Recovery
from pywsapp.topics.history.rules import Publication
from pywsapp.topics.presence.view import PresenceDiff, Present
from pywsapp.topics.topic import Topic

__all__ = (
    "Accept",
    "App",
    "AsyncPublisher",
    "Broker",
    "BrokerUnavailable",
    "ClientConnection",
    "CloseCode",
    "ComponentMiddleware",
    "ConfigurationError",
    "Connection",
    "ConnectionClosed",
    "Deflate",
    "EchoServer",
    "HandshakeError",
    "HandshakeMiddleware",
    "Headers",
    "IpBlackList",
    "MessageComponent",
    "Options",
    "OriginCheck",
    "PreparedMessage",
    "PresenceDiff",
    "Present",
    "Publication",
    "Publisher",
    "PywsappError",
    "QueryParams",
    "Recovery",
    "Refuse",
    "Request",
    "Response",
    "Router",
    "SlowConsumer",
    "StaticFolder",
    "Topic",
    "TopicError",
    "__version__",
    "broadcast",
    "connect",
    "in_thread",
    "run_client",
)
