"""`SessionService`: what all stores of sessions have in common.

It loads a session before a request is answered, saves it with the answer, and drives `Session` in between. A store is
called with a time limit, and its failures become `SessionUnavailable` and a few lines in the log.

Which calls need a response, since only a response can set a cookie:

    call       store on a server             store in the cookie
    ---------  ----------------------------  -------------------
    save       of a new session only         always
    rotate     always                        always
    destroy    never                         always
    reload     never                         never
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio

from pywsapp.exceptions import SessionEnded, SessionError, SessionUnavailable
from pywsapp.http import Request
from pywsapp.sessions.base import SessionStore, Stored
from pywsapp.sessions.cookies import MAX_COOKIE_BYTES
from pywsapp.sessions.session import Answer, Session

T = TypeVar("T")

#: Seconds that a store has for one call. The handshake timeout of `Options` is longer.
STORE_SECONDS = 3.0


class SessionService:
    """Loads and saves the sessions of one store.

    Args:
        store: the store.
    """

    def __init__(self, store: SessionStore) -> None:
        self.store = store

    def use_store(self, store: SessionStore) -> None:
        """Use another store."""
        self.store = store

    # -- around the answer to a request ------------------------------------------------------------------------------

    async def open(self, request: Request) -> Session:
        """Return the session of a request: an empty one if the cookie names none.

        Raises:
            SessionUnavailable: the store failed.
        """
        session = Session(self, Answer(is_secure=request.scheme == "https"))
        token = self.store.cookie.read(request)
        if token is not None:
            await self._load(session, token)
        return session

    async def finish(self, session: Session) -> str | None:
        """Save the session if it was modified, and end its answer; return the value of a Set-Cookie field, or None.

        Raises:
            SessionError: the session cannot be saved; see `Session.save`.
        """
        try:
            if session.is_modified:
                await self.save(session)
            else:
                await self._renew(session)
            assert session._answer is not None
            return session._answer.set_cookie
        finally:
            session._answer = None

    def abandon(self, session: Session) -> None:
        """End the answer of a session without saving it, because the request failed."""
        session._answer = None

    async def _renew(self, session: Session) -> None:
        """Extend the life of the cookie, which the store has done for the session itself."""
        token, answer, store = session._token, session._answer, self.store
        if token is None or answer is None or answer.set_cookie is not None or not store.is_sliding:
            return
        if not store.is_in_cookie:
            answer.set_cookie = self._cookie(session, token, answer)
        elif session._expires is None or session._expires - store.now() < store.max_age / 2:
            # Not each time: another answer, which logs the user out, may be on its way, and this one would undo it.
            await self.save(session)

    # -- the calls of Session ----------------------------------------------------------------------------------------

    async def save(self, session: Session) -> None:
        """See `Session.save`."""
        self._check_can_write()
        if session._token is None or self.store.is_in_cookie:
            if session._answer is None:
                raise self._needs_response("saving a new session" if session._token is None else "saving a session")
            if not session and self.store.is_in_cookie:
                self._forget(session)
                return
        await self._save_as(session, session._token)

    async def rotate(self, session: Session) -> None:
        """See `Session.rotate`."""
        self._check_can_write()
        if session._answer is None:
            raise self._needs_response("a new id for a session")
        old = None if self.store.is_in_cookie else session._token
        if old is not None and await self._call(self.store.load(old), old) is None:
            raise SessionEnded("the session was destroyed or has expired")  # or the new id would bring it back
        await self._save_as(session, None)
        if old is not None:
            await self._call(self.store.delete(old), old)

    async def destroy(self, session: Session) -> None:
        """See `Session.destroy`."""
        self._check_can_write()
        if self.store.is_in_cookie:
            if session._answer is None:
                raise self._needs_response("destroying a session")
        elif session._token is not None:
            await self._call(self.store.delete(session._token), session._token)
        self._forget(session)

    async def reload(self, session: Session) -> None:
        """See `Session.reload`."""
        if session._token is not None:
            await self._load(session, session._token)
        else:
            session._replace({}, None, None)

    async def _load(self, session: Session, token: str) -> None:
        try:
            stored = await self._call(self.store.load(token), token)
        except SessionUnavailable:
            raise
        except SessionError as exc:
            self.store.outage.note_unreadable(self.store.name, exc, token)
            stored = None
        if stored is None:
            session._replace({}, None, None)
        else:
            session._replace(stored.data, token, stored.expires)

    async def _save_as(self, session: Session, token: str | None) -> None:
        store = self.store
        if session._expires is None or store.is_sliding:
            session._expires = store.new_end()
        stored = Stored(session._data, session._expires)
        saved = await self._call(store.save(token, stored), token)
        if saved != session._token or store.is_sliding:
            answer = session._answer
            if answer is not None:
                answer.set_cookie = self._cookie(session, saved, answer)
            elif saved != session._token:
                raise self._needs_response("a new id for a session")
        session._token = saved
        session._mark_saved()

    def _forget(self, session: Session) -> None:
        """Empty the session, and delete its cookie if the client has one."""
        answer = session._answer
        if answer is not None:
            answer.set_cookie = None
            if session._token is not None:
                answer.set_cookie = self.store.cookie.set_field("", 0, is_secure=answer.is_secure)
        session._replace({}, None, None)

    # -- the store ---------------------------------------------------------------------------------------------------

    async def _call(self, call: Awaitable[T], token: str | None) -> T:
        store = self.store
        try:
            with anyio.fail_after(STORE_SECONDS):
                result = await call
        except SessionError:
            store.outage.note_works(store.name)
            raise
        except Exception as exc:
            store.outage.note_failed(store.name, exc, token)
            raise SessionUnavailable(f"{store.name} is unavailable") from exc
        store.outage.note_works(store.name)
        return result

    def _cookie(self, session: Session, token: str, answer: Answer) -> str:
        store = self.store
        seconds = store.cookie_seconds(session._data)
        if seconds is not None and session._expires is not None and not store.is_sliding:
            seconds = max(1, round(session._expires - store.now()))
        field = store.cookie.set_field(token, seconds, is_secure=answer.is_secure)
        if len(field) > MAX_COOKIE_BYTES:
            raise SessionError(
                f"the cookie of the session would have {len(field)} bytes, and browsers accept {MAX_COOKIE_BYTES}: "
                "keep less in the session, or use a store on a server"
            )
        return field

    def _check_can_write(self) -> None:
        if self.store.is_read_only:
            raise SessionError(f"{self.store.name} can only be read")

    def _needs_response(self, what: str) -> SessionError:
        return SessionError(
            f"{what} needs a response that sets a cookie, and there is none any more: do it in on_handshake, "
            "or in a handler of app.http"
        )
