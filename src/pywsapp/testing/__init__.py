"""Tools to test what was built with pywsapp, or for it.

`TestClient` runs an App in memory and connects to it:

    async with TestClient(app) as client, client.connect("/chat") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"

`SyncTestClient` does so without async, and `AppServer` runs an App on a real port. `VirtualClock` lets time pass,
`FakeConnection` records what one method does, `two_nodes` runs two Apps with one broker, and `FaultyProxy` is a network
with faults.

`check_broker`, `check_session_store`, `check_ticket_store`, `check_codec` and `check_middleware` check code of your own
against every rule that pywsapp relies on. `BROKER_CHECKS` and its like have the same checks one by one, for a test
each.
"""

from pywsapp.testing.broker import BROKER_CHECKS, check_broker
from pywsapp.testing.client import HandshakeArguments, TestClient
from pywsapp.testing.clock import VirtualClock
from pywsapp.testing.codecs import CODEC_CHECKS, check_codec
from pywsapp.testing.event_stream import StreamEvent, TestEventStream
from pywsapp.testing.fake import FakeConnection
from pywsapp.testing.faults import FaultyProxy
from pywsapp.testing.idle import until_idle
from pywsapp.testing.middleware import MIDDLEWARE_CHECKS, check_middleware
from pywsapp.testing.nodes import two_nodes
from pywsapp.testing.response import TestResponse
from pywsapp.testing.server import AppServer
from pywsapp.testing.sessions import SESSION_STORE_CHECKS, check_session_store
from pywsapp.testing.sync import SyncTestClient, SyncTestEventStream, SyncTestWebSocket
from pywsapp.testing.tickets import TICKET_STORE_CHECKS, check_ticket_store
from pywsapp.testing.websocket import TestWebSocket

__all__ = (
    "BROKER_CHECKS",
    "CODEC_CHECKS",
    "MIDDLEWARE_CHECKS",
    "SESSION_STORE_CHECKS",
    "TICKET_STORE_CHECKS",
    "AppServer",
    "FakeConnection",
    "FaultyProxy",
    "HandshakeArguments",
    "StreamEvent",
    "SyncTestClient",
    "SyncTestEventStream",
    "SyncTestWebSocket",
    "TestClient",
    "TestEventStream",
    "TestResponse",
    "TestWebSocket",
    "VirtualClock",
    "check_broker",
    "check_codec",
    "check_middleware",
    "check_session_store",
    "check_ticket_store",
    "two_nodes",
    "until_idle",
)
