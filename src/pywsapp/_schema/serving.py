"""The page of a document and its files over plain HTTP."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

from pywsapp._schema.page import HEADERS, page_of
from pywsapp._schema.type_expressions import Json
from pywsapp._schema.typescript import types_of
from pywsapp.exceptions import ConfigurationError
from pywsapp.http import Request, Response

_FILE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


class DocumentPage:
    """The responses for a page; they are made once.

    Args:
        path: the path of the page; its files are below it.
        make: returns the AsyncAPI document.
        arguments: the arguments of `make`.

    Raises:
        ConfigurationError: the path has parameters.
        TypeError: `make` does not have these arguments.
    """

    def __init__(self, path: str, make: Callable[..., Json], arguments: dict[str, Any]) -> None:
        inspect.signature(make).bind(**arguments)
        if "{" in path:
            raise ConfigurationError(f"{path!r}: the path of a page with a document has no parameters")
        self._path = path
        self._make = functools.partial(make, **arguments)
        self._responses: dict[str, Response] = {}

    def handlers(self) -> dict[str, Callable[[Request], Response]]:
        """Return the handlers of plain HTTP by their paths."""
        below = self._path.removesuffix("/")
        return {self._path: self.page, f"{below}/asyncapi.json": self.document, f"{below}/messages.ts": self.types}

    def page(self, request: Request) -> Response:
        """Return the page."""
        return self._response("page")

    def document(self, request: Request) -> Response:
        """Return the AsyncAPI document."""
        return self._response("document")

    def types(self, request: Request) -> Response:
        """Return the types for TypeScript."""
        return self._response("types")

    def prepare(self) -> None:
        """Make the responses.

        Raises:
            ConfigurationError: the messages have no document.
        """
        document = self._make()
        last = self._path.rpartition("/")[2]  # links are relative, because a mount can be around the page
        prefix = f"{last}/" if last else ""
        links = {"AsyncAPI (JSON)": f"{prefix}asyncapi.json", "TypeScript": f"{prefix}messages.ts"}
        text = json.dumps(document, indent=2, ensure_ascii=False)
        self._responses = {
            "page": Response.html(page_of(document, links), headers=HEADERS),
            "document": Response(text, headers=_FILE_HEADERS, content_type="application/json"),
            "types": Response(types_of(document), headers=_FILE_HEADERS),
        }

    def _response(self, name: str) -> Response:
        if not self._responses:
            self.prepare()
        return self._responses[name]
