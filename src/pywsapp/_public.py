"""The public names, which `pywsapp` loads when a program uses the first one of them."""

from pywsapp._messages.marks import on, rpc
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp._server.tls_settings import Tls
from pywsapp._version import __version__
from pywsapp.app import App
from pywsapp.brokers.base import Broker
from pywsapp.client import (
    Backoff,
    ClientConnection,
    LoopConnection,
    Reconnecting,
    SyncConnection,
    TopicMessage,
    TopicsClient,
    TopicSubscription,
    connect,
    connect_sync,
    connect_topics,
    reconnecting,
    run_client,
)
from pywsapp.close_codes import CloseCode
from pywsapp.component import Accept, EchoServer, MessageComponent, in_thread
from pywsapp.connection import Application, Connection, broadcast
from pywsapp.exceptions import (
    BrokerUnavailable,
    CallError,
    CallTimeout,
    ConfigurationError,
    ConnectionClosed,
    HandshakeError,
    InvalidCredentials,
    InvalidMessage,
    MessagesLost,
    NotAuthorized,
    OutcomeUnknown,
    ProxyError,
    PywsappError,
    QueueFull,
    Refuse,
    SessionEnded,
    SessionError,
    SessionUnavailable,
    TopicError,
)
from pywsapp.http import Headers, QueryParams, Request, Response
from pywsapp.middleware.base import ComponentMiddleware, HandshakeMiddleware
from pywsapp.middleware.ip_filter import IpBlackList, IpFilter
from pywsapp.middleware.origin import OriginCheck
from pywsapp.middleware.rate_limit import Exceeded, RateLimit
from pywsapp.middleware.session import SessionMiddleware
from pywsapp.options import Deflate, Options, SlowConsumer, TooMany
from pywsapp.protocols.topic_component import TopicComponent
from pywsapp.publisher import AsyncPublisher, Publisher
from pywsapp.routing.router import Router
from pywsapp.routing.static import StaticFolder
from pywsapp.sessions.base import SessionStore
from pywsapp.sessions.session import Session
from pywsapp.stats import Stats
from pywsapp.topics.history.recovery import Recovery
from pywsapp.topics.history.rules import Publication
from pywsapp.topics.presence.topic_presence import PresenceDiff, Present
from pywsapp.topics.rules import TopicRules
from pywsapp.topics.topic import Topic
from pywsapp.topics.users.users import UserConnections, Users
from pywsapp.webhooks.options import WebhookOptions, WhenFull
from pywsapp.webhooks.sender import Webhook, WebhookStats

__all__ = (
    "Accept",
    "App",
    "Application",
    "AsyncPublisher",
    "Backoff",
    "Broker",
    "BrokerUnavailable",
    "CallError",
    "CallTimeout",
    "ClientConnection",
    "CloseCode",
    "ComponentMiddleware",
    "ConfigurationError",
    "Connection",
    "ConnectionClosed",
    "Deflate",
    "EchoServer",
    "Exceeded",
    "HandshakeError",
    "HandshakeMiddleware",
    "Headers",
    "InvalidCredentials",
    "InvalidMessage",
    "IpBlackList",
    "IpFilter",
    "LoopConnection",
    "MessageComponent",
    "MessagesLost",
    "NotAuthorized",
    "Options",
    "OriginCheck",
    "OutcomeUnknown",
    "PreparedMessage",
    "PresenceDiff",
    "Present",
    "ProxyError",
    "Publication",
    "Publisher",
    "PywsappError",
    "QueryParams",
    "QueueFull",
    "RateLimit",
    "Reconnecting",
    "Recovery",
    "Refuse",
    "Request",
    "Response",
    "Router",
    "Session",
    "SessionEnded",
    "SessionError",
    "SessionMiddleware",
    "SessionStore",
    "SessionUnavailable",
    "SlowConsumer",
    "StaticFolder",
    "Stats",
    "SyncConnection",
    "Tls",
    "TooMany",
    "Topic",
    "TopicComponent",
    "TopicError",
    "TopicMessage",
    "TopicRules",
    "TopicSubscription",
    "TopicsClient",
    "UserConnections",
    "Users",
    "Webhook",
    "WebhookOptions",
    "WebhookStats",
    "WhenFull",
    "__version__",
    "broadcast",
    "connect",
    "connect_sync",
    "connect_topics",
    "in_thread",
    "on",
    "reconnecting",
    "rpc",
    "run_client",
)
