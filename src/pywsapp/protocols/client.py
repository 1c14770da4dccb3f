"""The requests of a client of a `TopicComponent`, in any protocol.

Each request is checked here: its names, what `authorize` allows, the limits. A request that fails raises a
`RequestError`, whose code is the same in all protocols; any other exception is a fault of a hook.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from pywsapp._messages.objects import ObjectBytes, prepared_content
from pywsapp._outbox.awaitables import ALREADY_DONE
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp._request_state import access_of, make_access
from pywsapp._topic_actions import TopicAction
from pywsapp.auth.identity import refresh
from pywsapp.auth.tokens import verified
from pywsapp.auth.user_keys import key_of_user
from pywsapp.brokers.base import Position
from pywsapp.exceptions import ConfigurationError, InvalidCredentials, TopicError
from pywsapp.protocols.conversation import ProtocolConversation, content_for
from pywsapp.protocols.errors import RequestError
from pywsapp.protocols.subscription import Subscription
from pywsapp.protocols.views import Filter, Filtered, Newest
from pywsapp.topics.delivery import RECOVERING, DeliveryForm, form_of

if TYPE_CHECKING:
    from pywsapp.codecs.base import Codec
    from pywsapp.connection import Connection
    from pywsapp.protocols.topic_component import TopicComponent
    from pywsapp.topics.codec import Content
    from pywsapp.topics.topic import Topic

#: The value of a field that the client has not sent, where None is a value.
ABSENT: Any = object()
#: Seconds before the expiry of a user at which the client is asked for a new token.
EXPIRING_SECONDS = 30


class Connected(NamedTuple):
    """The answer to a client that has connected.

    Args:
        client: names the connection for other clients.
        user: the key of its user; None without one.
        expires_in: seconds until the user expires; None for never.
    """

    client: str
    user: str | None
    expires_in: int | None


class TopicClient:
    """One client. The endpoint of its connection creates it.

    Args:
        component: the component.
        conn: the connection.

    Attributes:
        component: the component.
        conn: the connection.
        id: names the connection for other clients; it is no secret.
        is_connected: whether the client was accepted, so that `on_open` of the component was called.
    """

    __slots__ = ("_leaving", "_scope", "_unfinished", "component", "conn", "id", "is_connected")

    def __init__(self, component: TopicComponent, conn: Connection) -> None:
        self.component = component
        self.conn = conn
        self.id = secrets.token_urlsafe(12)
        self.is_connected = False
        self._scope = f"client:{self.id}"
        self._leaving: Topic | None = None
        self._unfinished: dict[str, anyio.Event] = {}  # topics whose subscription has not finished

    # -- who the client is -------------------------------------------------------------------------------------------

    async def connect(self, token: str | None, session: str | None, expiring: Callable[[int], None]) -> Connected:
        """Accept the client, and call `on_open`.

        Args:
            token: the token of the client, if it has sent one.
            session: a secret that only this client knows, which names it if it has no user.
            expiring: called before the user expires, with the seconds that are left.
        """
        conn, verify = self.conn, self.component.authenticate_token
        if token is not None:
            if verify is None:
                raise RequestError("invalid_message", "this server takes no token in `connect`")
            asked_at = time.monotonic()
            refresh(conn.request, await verified(verify, token, conn.request), asked_at)
        elif verify is not None and conn.user is None:
            raise InvalidCredentials("`connect` has no token")
        access = make_access(conn.request)
        access.alarm = self._alarm(access.expires_at, expiring)
        if conn._driver is not None:
            conn._driver.user_changed()
        if not conn.is_open:  # its user has too many connections, or was disconnected meanwhile
            raise RequestError("unauthenticated", "the connection is closed")
        self.component._waiting.discard(conn)
        if session is not None:
            self._scope = f"session:{session}"
        self.is_connected = True
        result = self.component.on_open(conn)
        if isinstance(result, Awaitable):
            await result
        return Connected(self.id, self.user_key(), seconds_until(access.expires_at))

    async def refresh(self, token: str, expiring: Callable[[int], None]) -> int | None:
        """Replace the credentials; return the seconds until they expire, None for never."""
        verify = self.component.authenticate_token
        if verify is None:
            raise RequestError("invalid_message", "this server takes no token in `refresh`")
        identity = await verified(verify, token, self.conn.request)
        make_access(self.conn.request).alarm = self._alarm(identity.expires_at, expiring)
        self.conn.refresh_user(identity)
        return seconds_until(identity.expires_at)

    def _alarm(
        self, expires_at: float | None, expiring: Callable[[int], None]
    ) -> tuple[float, Callable[[], None]] | None:
        """Return when to ask the client for a new token, and a function that asks; None without an expiry."""
        if expires_at is None or self.component.authenticate_token is None:
            return None
        now = time.time()
        return expires_at - min(EXPIRING_SECONDS, max(0, expires_at - now) / 2), lambda: self._warn(expiring)

    def _warn(self, expiring: Callable[[int], None]) -> None:
        access = access_of(self.conn.request)
        seconds = None if access is None else seconds_until(access.expires_at)
        if seconds is not None:
            expiring(seconds)

    def user_key(self) -> str | None:
        """Return the key of the user; None without a user, or without a key of it."""
        try:
            return key_of_user(self.conn.request)
        except ConfigurationError:  # the App counts and reports users without a key
            return None

    # -- subscribing -------------------------------------------------------------------------------------------------

    async def subscribe(
        self,
        name: str,
        since: str | None = ABSENT,
        *,
        presence: bool = False,
        meta: Any = ABSENT,
        fields: dict[str, list[Any]] | None = None,
        newest: str | bool = False,
    ) -> Subscription:
        """Subscribe the client to a topic; `Subscription.finish` then waits until it has what it asked for.

        Args:
            name: the topic's name.
            since: the position after which the client gets what it has missed; None for everything that is kept.
            presence: whether it gets the users in the topic, and the changes.
            meta: what others see of the user, who becomes present.
            fields: the client gets only messages that are objects with one of these values in each of these fields.
            newest: while the client reads slowly, it gets only the newest message of the topic for True, or for each
                value of a field.
        """
        conn, topic = self.conn, self.topic(name)
        if (unfinished := self._unfinished.get(name)) is not None and conn not in topic:
            await unfinished.wait()
        if conn in topic:
            raise RequestError("already_subscribed", f"the connection subscribes to {name!r} already")
        recovers = since is not ABSENT
        position = _position(topic, since) if recovers else None
        form = self._form(fields, newest)
        await self._may("subscribe", name)
        if recovers:
            await self._may("history", name)
        if presence or meta is not ABSENT:
            await self._may_be_present(topic)
        await self._ask(topic, recovers=recovers)
        received = topic._add(conn, RECOVERING if recovers else None, form)
        subscription = Subscription(self, topic, received, since=position, recovers=recovers, presence=presence)
        try:
            if meta is not ABSENT:
                if self.component._has_on_track:
                    await topic._registry.received(topic)  # the hook can look at the users of other processes
                await self._track(topic, meta)
            if presence:
                await self._note_presence(topic)
        except BaseException:
            subscription.undo()
            raise
        return subscription

    def _form(self, fields: dict[str, list[Any]] | None, newest: str | bool) -> DeliveryForm | None:
        """Return how a subscription gets messages."""
        form = form_of(self.conn)
        if form is not None and fields is not None:
            form = Filtered(form, Filter(fields, self.component.filter_fields))
        if form is not None and newest is not False:
            form = Newest(form, None if newest is True else newest)
        return form

    async def _ask(self, topic: Topic, *, recovers: bool) -> None:
        """Call the hooks that decide about a subscription."""
        driver = self.conn._driver
        if driver is None:
            raise RequestError("not_connected", "the connection is closed")
        if driver.subscriptions().is_full:
            driver.exceeded("max_topics")
            raise RequestError("too_many_topics", "the connection subscribes to too many topics")
        asked = driver.ask_subscribe(topic, history=recovers)
        if isinstance(asked, Awaitable):
            await asked
        if not self.conn.is_open or self.conn in topic:
            raise RequestError("already_subscribed", "the connection is closed, or subscribed meanwhile")

    def unsubscribe(self, name: str) -> None:
        """Unsubscribe the client from a topic."""
        topic = self._subscribed(name)
        self._leaving = topic
        try:
            topic.remove(self.conn)
        finally:
            self._leaving = None

    def left(self, topic: Topic) -> bool:
        """Handle the end of a subscription; return whether the server has ended it."""
        topic._registry.presence.hide(topic.name, self.conn)
        if isinstance(self.conn._messages, ProtocolConversation):
            self.conn._messages.forget(topic.name)
        return self.is_connected and topic is not self._leaving and self.conn.is_open

    # -- presence ----------------------------------------------------------------------------------------------------

    async def track(self, name: str, meta: Any) -> None:
        """Make the user present in a topic, or change what others see of the user."""
        topic = self._subscribed(name)
        await self._may_be_present(topic)
        await self._track(topic, meta)

    def untrack(self, name: str) -> None:
        """End the presence of the user in a topic."""
        self._subscribed(name).untrack(self.conn)

    async def _may_be_present(self, topic: Topic) -> None:
        if not topic._registry.presence.covers(topic.name):
            raise RequestError("no_presence", f"{topic.name!r} has no presence")
        await self._may("presence", topic.name)

    async def _note_presence(self, topic: Topic) -> None:
        """Have the subscription end when the client may not see the presence of a topic any more."""
        authorization = None if self.conn._driver is None else self.conn._driver.subscriptions().authorization
        asked = None if authorization is None else authorization.ask_presence(topic)
        if asked is not None:
            await asked

    async def _track(self, topic: Topic, meta: Any) -> None:
        try:
            meta = json.loads(json.dumps(meta, allow_nan=False))  # each viewer can read it, as after a broker
        except (TypeError, ValueError, RecursionError) as exc:
            raise RequestError("invalid_message", f"the meta of a user must be serialisable as JSON: {exc}") from None
        if self.component._has_on_track:
            meta = self.component.on_track(self.conn, topic, meta)
            if isinstance(meta, Awaitable):
                meta = await meta
        try:
            await topic.track(self.conn, self.user_key() or self.id, meta)
        except TopicError as exc:
            raise RequestError("invalid_message", str(exc)) from None

    # -- publishing and calling --------------------------------------------------------------------------------------

    async def publish(self, name: str, data: Any, key: str | None = None) -> Awaitable[None]:
        """Publish a message; return what waits until the broker has accepted it.

        Args:
            name: the topic's name.
            data: text, bytes, or any other value of JSON.
            key: under which the same client publishes the message once.
        """
        topic = self.topic(name)
        message_id = None if key is None else self._message_id(key)
        if message_id is not None and topic._registry.accepted_ids.has(name, message_id):
            return ALREADY_DONE
        await self._may("publish", name)
        message = self.component.on_publish(self.conn, topic, data)
        if isinstance(message, Awaitable):
            message = await message
        accepted: Awaitable[None] = ALREADY_DONE
        if message is not None:
            is_prepared = isinstance(message, PreparedMessage)
            prepared = message if is_prepared else prepared_content(_content(message, data, topic.codec))
            try:
                accepted = topic.broadcast(prepared, message_id=message_id)
            except TopicError as exc:
                raise RequestError("too_large", str(exc)) from None
        if accepted is ALREADY_DONE and message_id is not None:
            topic._registry.accepted_ids.add(name, message_id)
        return accepted

    def note_accepted(self, name: str, key: str) -> None:
        """Remember that the broker has accepted a message, so `publish` does nothing when the client repeats it."""
        self.topic(name)._registry.accepted_ids.add(name, self._message_id(key))

    def _message_id(self, key: str) -> str:
        """Return the id of a message, which no other client can make: it would suppress the message."""
        user = self.user_key()
        scope = self._scope if user is None else f"user:{user}"
        return f"key:{hashlib.blake2b(f'{len(scope)}:{scope}:{key}'.encode(), digest_size=24).hexdigest()}"

    async def call(self, method: str, params: dict[str, Any] | list[Any], codec: Codec) -> Any:
        """Call a procedure of the component, or `on_call`; return the result."""
        procedures = self.component._procedures
        if method in procedures.names:
            run, arguments = procedures.read(method, params, codec)
            result = run(self.component, self.conn, **arguments)
        else:
            result = self.component.on_call(self.conn, method, params)
        return await result if isinstance(result, Awaitable) else result

    # -- names and permissions ---------------------------------------------------------------------------------------

    def topic(self, name: str) -> Topic:
        """Return the topic of a name that a client has sent."""
        app = self.conn.app
        if app is None:
            raise ConfigurationError("a TopicComponent needs an App: route it on one")
        try:
            return app.topic(name)
        except TopicError as exc:
            raise RequestError("invalid_topic", str(exc)) from None

    def _subscribed(self, name: str) -> Topic:
        topic = self.topic(name)
        if self.conn not in topic:
            raise RequestError("not_subscribed", f"the connection does not subscribe to {name!r}")
        return topic

    async def _may(self, action: TopicAction, name: str) -> None:
        if not await self.conn.may(action, name):
            raise RequestError("not_allowed", f"{action} is not allowed for {name!r}")


def _content(message: Any, data: Any, codec: Codec | None) -> Content:
    """Return the content of a message that `on_publish` has returned for the data of a client, in a topic's codec."""
    try:
        content = content_for(message, codec)
        if message is data and type(content) is ObjectBytes:  # JSON has no bytes as keys, for instance
            content_for(data)
        return content
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        if message is not data:
            raise
        raise RequestError("invalid_message", f"`data` has no form in JSON: {exc}") from None


def _position(topic: Topic, since: str | None) -> Position | None:
    """Return the position of the last message that a client has of a topic; None if it has none."""
    if topic.history is None:
        raise RequestError("no_history", f"{topic.name!r} keeps no history")
    try:
        return None if since is None else Position.parse(since)
    except TopicError as exc:
        raise RequestError("invalid_position", str(exc)) from None


def seconds_until(expires_at: float | None) -> int | None:
    """Return the whole seconds until a time of day; None for never."""
    return None if expires_at is None else max(0, int(expires_at - time.time()))
