"""Authentication: who a client is, decided before its connection is accepted.

    App(authenticate=...), app.route(..., authenticate=...), app.mount(..., authenticate=...), or the method
    `authenticate(self, request)` of a component

`authenticate` is a function, or one of the objects of this package. The order of the checks of a request: the origin
and the addresses, then `authenticate`, then `on_handshake`. The innermost `authenticate` that is given decides alone:
that of the component, then of the route, then of the mounts and Apps around it.
"""

from pywsapp.auth.identity import Authenticated, public

__all__ = ("Authenticated", "public")
