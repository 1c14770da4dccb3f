"""Sessions: data about a client that outlives a connection, and that a website and its WebSockets can share.

A `SessionStore` keeps them. Stores that need a library are in modules of their own: `redis`, `memcached`,
`signed_cookie`, and `django`, `django_cookie`, `flask`, `flask_session`, `starlette` and `php` for the sessions of a
website.
"""

from pywsapp.sessions.base import SessionStore, Stored
from pywsapp.sessions.cookies import SessionCookie
from pywsapp.sessions.key_value import KeyValueStore
from pywsapp.sessions.memory import MemorySessionStore
from pywsapp.sessions.session import Session

__all__ = ("KeyValueStore", "MemorySessionStore", "Session", "SessionCookie", "SessionStore", "Stored")
