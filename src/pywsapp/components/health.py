"""What a balancer is told when it asks whether it may send clients here."""

from __future__ import annotations

from pywsapp.values.response import Response

_FRESH = {"Cache-Control": "no-store"}


def health(*, stopping: bool) -> Response:
    """Make the answer: 200 if clients are welcome, 503 if the server is about to end."""
    if stopping:
        return Response.json({"status": "stopping"}, 503, _FRESH)
    return Response.json({"status": "ok"}, headers=_FRESH)
