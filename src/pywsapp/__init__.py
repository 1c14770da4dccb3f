"""Real-time WebSocket applications: subclass MessageComponent, route it on an App, run it on asyncio or trio."""

import pywsapp.twin  # noqa: F401 - first: it decides which build the others are imported from

# isort: split
from pywsapp.app import App
from pywsapp.broadcasting import broadcast
from pywsapp.client import connect
from pywsapp.component import Accept, ComponentDecorator, HandshakeDecorator, MessageComponent, in_thread
from pywsapp.components.echo import EchoServer
from pywsapp.components.ip import IpBlackList
from pywsapp.components.origin import OriginCheck
from pywsapp.components.router import Router
from pywsapp.components.static import StaticFolder
from pywsapp.connection import Connection
from pywsapp.protocol.prepared import PreparedMessage
from pywsapp.publisher import AsyncPublisher, Publisher
from pywsapp.topics.broker import Broker
from pywsapp.topics.presence import PresenceDiff, Present
from pywsapp.topics.recovery import Publication, Recovery
from pywsapp.topics.topic import Topic
from pywsapp.values.close import CloseCode
from pywsapp.values.errors import (
    BrokerUnavailable,
    ConfigurationError,
    ConnectionClosed,
    HandshakeError,
    PywsappError,
    Refuse,
    TopicError,
)
from pywsapp.values.options import Deflate, Options, SlowConsumer
from pywsapp.values.request import Headers, QueryParams, Request
from pywsapp.values.response import Response
from pywsapp.values.version import __version__

__all__ = (
    "Accept",
    "App",
    "AsyncPublisher",
    "Broker",
    "BrokerUnavailable",
    "CloseCode",
    "ComponentDecorator",
    "ConfigurationError",
    "Connection",
    "ConnectionClosed",
    "Deflate",
    "EchoServer",
    "HandshakeDecorator",
    "HandshakeError",
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
)
