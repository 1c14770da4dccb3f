"""Real-time WebSocket applications: subclass MessageComponent, route it on an App, run it on asyncio or trio.

Applications and routing
    App                  routes components and serves them; `app.run()` runs it
    Router               routes below another route, without an App
    StaticFolder         serves the files of a folder
    Stats                what app.stats() returns: connections, limits and topics in numbers
    Application          what `conn.app` offers to a component, for type hints
    Tls                  certificate files that are read again when they change: App(tls=Tls(...))

Components and connections
    MessageComponent     the base class of your code: on_open, on_message, on_close, on_error
    EchoServer           a component that sends every message back
    Accept               what on_handshake can return, to choose how to accept
    in_thread            marks a method that blocks, so that it runs in a thread
    on                   marks a method that handles the messages with one tag: @on("join")
    rpc                  marks a method that clients can call: @rpc
    Connection           one client: send, close, subscribe, state
    broadcast            sends a message to many connections
    PreparedMessage      a message that is encoded once and sent often
    CloseCode            why a connection was closed: the codes of RFC 6455

Topics
    TopicComponent       the base class of a component whose clients subscribe, publish and call
    Topic                sends to all subscribers, in all processes: app.topic(name)
    Publication          a message that a topic keeps, with its position
    Recovery             what a client has missed and got: await topic.recover(conn, since)
    Present              a user in a topic: topic.present()
    TopicRules           which topics a connection may use: App(authorize=TopicRules(...))
    PresenceDiff         who came and left: @app.on_presence(pattern)

Users
    Users                all connections of each user: app.users
    UserConnections      those of one user, in all processes: app.users[user]

Webhooks
    Webhook              a URL that gets events: app.webhook(url, secret=...)
    WebhookOptions       its timeouts, attempts and bounds
    WebhookStats         its numbers: webhook.stats
    WhenFull             what is dropped when too much waits for it

Brokers and publishing
    Broker               carries topics to other processes; to write one, see pywsapp.brokers
    Publisher            publishes on topics from a program without an App
    AsyncPublisher       the same for async code

Client
    connect              opens a connection: async with connect(url) as conn
    ClientConnection     what it gives: a Connection that can also receive
    reconnecting         connects again after a loss: async for conn in reconnecting(url)
    Reconnecting         the iterator that it returns
    LoopConnection       what it gives: a ClientConnection whose loss ends the body of the loop
    Backoff              how reconnecting waits, and when it gives up
    connect_sync         the same without an event loop: with connect_sync(url) as conn
    SyncConnection       what it gives
    run_client           runs a component as the client of a server
    connect_topics       uses topics of a server: async with connect_topics(url) as topics
    TopicsClient         what it gives: subscribe, publish, call; it connects again by itself
    TopicSubscription    what topics.subscribe gives: messages, position, who is present
    TopicMessage         a message of it: data and position

Middleware
    HandshakeMiddleware  the base class of a check before a connection is accepted
    ComponentMiddleware  the base class of a component around a component
    OriginCheck          accepts web pages of certain origins only; App.route adds it
    IpBlackList          refuses clients by IP address, with a list that changes at run time
    IpFilter             refuses clients by IP address, with lists and files of addresses
    RateLimit            limits the messages and bytes that a client sends in a second
    Exceeded             what happens to a message above such a limit
    SessionMiddleware    gives requests and connections a session; App(session_store=...) adds it

Sessions
    Session              the data of a client: request.session, conn.session
    SessionStore         keeps sessions; see pywsapp.sessions

Options, requests and responses
    Options              limits and timeouts of connections
    Deflate              how messages are compressed: Options(deflate=Deflate())
    SlowConsumer         what happens to a client that reads too slowly
    TooMany              what happens to a user that has too many connections
    Request              the request of a handshake or of a page
    Headers              its header fields
    QueryParams          the parameters in its URL
    Response             what a page answers

Exceptions
    PywsappError         the base class of the others
    ConfigurationError   a mistake in the program; the message says what to write
    Refuse               raise it in on_handshake or on_request to refuse a request
    InvalidCredentials   the credentials of a client are not valid
    TopicError           a client asked for a topic that it cannot have
    NotAuthorized        authorize refuses a topic to a connection
    ConnectionClosed     a connection ended before what was awaited came
    InvalidMessage       a message is not what its handler accepts
    CallError            a call failed: await conn.call(...)
    CallTimeout          a call was not answered in time
    HandshakeError       a server refused this client
    MessagesLost         messages of a topic are missing; the subscription goes on
    QueueFull            too much waits in a client of topics
    ProxyError           a proxy did not connect this client to a server
    BrokerUnavailable    a broker did not accept a message
    OutcomeUnknown       a broker may have accepted a message all the same
    SessionError         a session cannot be saved here
    SessionEnded         a session was destroyed or has expired
    SessionUnavailable   the store of sessions failed
"""

import importlib
import typing

import pywsapp._compiled  # noqa: F401 - first: it decides which build the others are imported from

if typing.TYPE_CHECKING:
    from pywsapp._public import *  # noqa: F403
    from pywsapp._public import __all__ as __all__
else:  # type checkers must find a misspelt name

    def __getattr__(name: str) -> typing.Any:
        """Load all public names when the first one is used; the command line answers `--help` without them."""
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module 'pywsapp' has no attribute {name!r}", name=name)
        loaded = importlib.import_module("pywsapp._public")
        globals().update({public: getattr(loaded, public) for public in loaded.__all__}, __all__=loaded.__all__)
        try:
            return globals()[name]  # a public name, or a module that has been imported with them
        except KeyError:
            raise AttributeError(f"module 'pywsapp' has no attribute {name!r}", name=name) from None

    def __dir__() -> list[str]:
        """Return the public names too before they are loaded."""
        __getattr__("__all__")
        return sorted(globals())
