"""The public objects of users: `app.users`, and the connections of one user."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pywsapp._messages.objects import prepared_object
from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp._request_state import access_of
from pywsapp.close_codes import CloseCode, check_close
from pywsapp.codecs.kinds import Encodable
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.users.events import Disconnect

if TYPE_CHECKING:
    from pywsapp._outbox.awaitables import LazyCoroutine
    from pywsapp.topics.users.service import UserService

#: Seconds in which the other processes answer how many connections a user has.
_COUNT_SECONDS = 0.3


class UserConnections:
    """All connections of one user, in all processes and on all machines; `app.users[user]` returns it.

    Attributes:
        key: the key of the user.
    """

    __slots__ = ("_service", "key")

    def __init__(self, service: UserService, key: str) -> None:
        self._service = service
        self.key = key

    def __repr__(self) -> str:
        return f"<UserConnections of {self.key!r}>"

    @property
    def connections(self) -> list[Connection]:
        """The open connections of the user in this process, the oldest first.

        Raises:
            ConfigurationError: the caller runs in another thread.
        """
        return self._service.connections(self.key)

    def send(
        self,
        message: Sendable | PreparedMessage | Encodable,
        *,
        exclude: Connection | Iterable[Connection] = (),
        compress: bool | None = None,
    ) -> LazyCoroutine[None]:
        """Send a message to all connections of the user, in this process and in all others. Never blocks.

        It is encoded once for each wire format and process. `on_broadcast` listeners are not called.

        Args:
            message: text, bytes, or an object, such as a dict or a list, which each connection gets in its codec.
            exclude: a connection or several of this process that do not get it, usually the sender.
            compress: as for `Connection.send`.

        Returns:
            an awaitable. Awaiting it waits until the broker has accepted the message. It need not be awaited.

        Raises:
            BrokerUnavailable: on awaiting, if the broker has not accepted it.
            OutcomeUnknown: on awaiting, if the broker may have accepted it.
            TopicError: it is larger than the broker's limit.
            TypeError: the message is neither text, bytes, nor an object with a form in JSON.
            ConfigurationError: the text has no UTF-8 form, the App does not run in this process, or the caller runs in
                another thread.
        """
        try:
            prepared = message if isinstance(message, PreparedMessage) else PreparedMessage(message, compress=compress)  # type: ignore[arg-type]
        except TypeError:
            prepared = prepared_object(message, compress)
        return self._service.send(self.key, prepared, _frozen(exclude))

    async def count(self, *, seconds: float = _COUNT_SECONDS) -> int:
        """Return the number of open connections of the user in all processes.

        With a broker it asks the other processes, and waits `seconds` for their answers. A process that answers later,
        or that is not connected to the broker, does not count.

        Args:
            seconds: how long to wait.

        Raises:
            BrokerUnavailable: the broker has not accepted the question.
            ConfigurationError: `seconds` is no number from 0 on, the App does not run in this process, or the caller
                runs in another thread.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise ConfigurationError(f"seconds must be a number from 0 on, not {seconds!r}")
        return await self._service.count(self.key, seconds)

    def disconnect(
        self,
        code: int = CloseCode.FORCED_DISCONNECT,
        reason: str = "disconnected by the server",
        *,
        exclude: Connection | Iterable[Connection] = (),
    ) -> LazyCoroutine[None]:
        """Close all connections of the user, in this process and in all others. Never blocks.

        First make `authenticate` refuse the user, for instance by revoking the token, and then call this. A handshake
        whose `authenticate` was called before the disconnect arrived is refused with status 401. `authenticate`
        decides about a later one.

        Args:
            code: the close code. By default it is 3503, after which clients do not connect again by themselves. Use
                4401 if the client can come back with new credentials.
            reason: a text for the clients, at most 123 bytes of UTF-8.
            exclude: a connection or several of this process that stay open.

        Returns:
            an awaitable. Awaiting it waits until the broker has accepted the call, not until the connections are gone.
            It need not be awaited.

        Raises:
            BrokerUnavailable: on awaiting, if the broker has not accepted it; the connections of this process are
                closed, and those of others are not.
            OutcomeUnknown: on awaiting, if the broker may have accepted it; call it again.
            ConfigurationError: the code must not be sent, the reason is too long, the App does not run in this process,
                or the caller runs in another thread.
        """
        check_close(code, reason)
        return self._service.disconnect(Disconnect(self.key, int(code), reason), _frozen(exclude))

    def reauthorize(self) -> LazyCoroutine[None]:
        """Call `authorize` again for all connections of the user, in this process and in all others. Never blocks.

        First change the permissions of the user, for instance in the database, and then call this. Each connection
        drops the answers of `authorize`, and unsubscribes from the topics that it may not use any more; see
        `Connection.reauthorize`.

        Returns:
            an awaitable. Awaiting it waits until the broker has accepted the call. It need not be awaited.

        Raises:
            BrokerUnavailable: on awaiting, if the broker has not accepted it; the connections of other processes go on
                as before.
            OutcomeUnknown: on awaiting, if the broker may have accepted it; call it again.
            ConfigurationError: the App does not run in this process, or the caller runs in another thread.
        """
        return self._service.reauthorize(self.key)


class Users:
    """The users of an App: `app.users`.

    `app.users[user]` takes a key, or a user as `authenticate` returns it. A str, an int or a UUID is a key.
    """

    __slots__ = ("_service",)

    # Without these, Python would iterate over users[0], users[1], ... without an end.
    __iter__ = None
    __contains__ = None

    def __init__(self, service: UserService) -> None:
        self._service = service

    def __getitem__(self, user: Any) -> UserConnections:
        return UserConnections(self._service, self.key(user))

    def key(self, user: Any) -> str:
        """Return the key of a user: the text that is the same for all connections of the user.

        The key of a connection is what `App(user_key=...)` returns for its user. Without that function it is the
        subject of `Authenticated` if there is one, else the user itself if it is a str, an int or a UUID, else its
        `sub`, `id` or `pk`. The user 7 and the user "7" are the same.

        Args:
            user: a key, a user, or an `Authenticated`.

        Raises:
            ConfigurationError: the user has no key.
        """
        if isinstance(user, Connection):
            raise ConfigurationError("write app.users.of(conn) for the user of a connection")
        return self._service.keys.of_user(user)

    def of(self, conn: Connection) -> UserConnections | None:
        """Return all connections of the user of a connection; None if it has no user.

        Raises:
            ConfigurationError: the user has no key.
        """
        access = access_of(conn.request)
        if access is None or access.user is None:
            return None
        return UserConnections(self._service, self._service.keys.of_access(access))


def _frozen(connections: Connection | Iterable[Connection]) -> frozenset[Connection]:
    return frozenset((connections,) if isinstance(connections, Connection) else connections)
