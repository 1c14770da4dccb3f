"""The routes of an app: which component, page or folder is on which path (Ratchet's App::route)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from pywsapp.component import ComponentFactory, MessageComponent
from pywsapp.middleware.origin import OriginCheck
from pywsapp.options import Options
from pywsapp.routing.endpoints import PublishEndpoint
from pywsapp.routing.router import HttpHandler, Router
from pywsapp.routing.static import StaticFolder
from pywsapp.topics.registry import TopicRegistry
from pywsapp.topics.topic import Topic

ComponentT = TypeVar("ComponentT", bound="MessageComponent | ComponentFactory")
HandlerT = TypeVar("HandlerT", bound=HttpHandler)


class Routes:
    """The base of an app.

    Args:
        router: where the routes are put.
        topics: the topics.
    """

    def __init__(self, router: Router, topics: TopicRegistry) -> None:
        self.router = router
        self.topics = topics

    def topic(self, name: str) -> Topic:
        """Give the topic of a name; connections are added to it, and messages broadcast on it.

        Raises:
            TopicError: it is no name: 1 to 200 bytes without whitespace and `*`, parts between colons not empty.
        """
        return self.topics.topic(name)

    @overload
    def route(
        self,
        path: str,
        component: None = None,
        allowed_origins: Iterable[str] | None = None,
        http_host: str | None = None,
        *,
        subprotocols: Sequence[str] | None = None,
        require_subprotocol: bool = False,
        require_origin: bool = False,
        options: Options | None = None,
    ) -> Callable[[ComponentT], ComponentT]: ...

    @overload
    def route(
        self,
        path: str,
        component: ComponentT,
        allowed_origins: Iterable[str] | None = None,
        http_host: str | None = None,
        *,
        subprotocols: Sequence[str] | None = None,
        require_subprotocol: bool = False,
        require_origin: bool = False,
        options: Options | None = None,
    ) -> ComponentT: ...

    def route(
        self,
        path: str,
        component: Any = None,
        allowed_origins: Iterable[str] | None = None,
        http_host: str | None = None,
        *,
        subprotocols: Sequence[str] | None = None,
        require_subprotocol: bool = False,
        require_origin: bool = False,
        options: Options | None = None,
    ) -> Any:
        """Put a component on a path (Ratchet's App::route, whose order of arguments this keeps).

        Args:
            path: a pattern: "/chat", "/rooms/{name}", "/n/{id:int}", "/files/{path:path}".
            component: an instance, shared by all connections, or a class or function that makes one for each. Left
                out, this is a decorator for a class.
            allowed_origins: the pages that may connect: "https://app.example", "https://*.example.com",
                "example.com"; ["*"] for any. None allows the same origin only.
            http_host: the Host this route answers to, instead of the app's.
            subprotocols: instead of the component's own, the preferred one first.
            require_subprotocol: refuse clients that offer none of them.
            require_origin: refuse clients that send no Origin, which are not browsers.
            options: limits for this route instead of the app's.

        Returns:
            the component.

        Raises:
            ConfigurationError: the pattern, the component or an origin cannot be, or the route exists.
        """
        if component is None:
            return functools.partial(
                self.route,
                path,
                allowed_origins=allowed_origins,
                http_host=http_host,
                subprotocols=subprotocols,
                require_subprotocol=require_subprotocol,
                require_origin=require_origin,
                options=options,
            )
        self.router.route(
            path,
            OriginCheck(component, allowed_origins, require_origin=require_origin),
            http_host=http_host,
            subprotocols=subprotocols,
            require_subprotocol=require_subprotocol,
            options=options,
        )
        return component

    @overload
    def http(
        self, path: str, handler: None = None, *, http_host: str | None = None
    ) -> Callable[[HandlerT], HandlerT]: ...

    @overload
    def http(self, path: str, handler: HandlerT, *, http_host: str | None = None) -> HandlerT: ...

    def http(self, path: str, handler: Any = None, *, http_host: str | None = None) -> Any:
        """Answer plain HTTP GET on a path of the same port: a page, JSON, a health check.

        Args:
            path: a pattern, as for `route`.
            handler: takes the Request and returns a Response, a str, bytes, or something for JSON; def or async def.
                Left out, this is a decorator.
            http_host: the Host this route answers to, instead of the app's.

        Raises:
            ConfigurationError: the pattern cannot be, or the route exists.
        """
        if handler is None:
            return functools.partial(self.http, path, http_host=http_host)
        self.router.http(path, handler, http_host=http_host)
        return handler

    def publishing(self, path: str, key: str | bytes, *, max_size: int = 64 * 1024) -> None:
        """Let others publish on topics by signed POST requests to a path, as `pywsapp.routing.endpoints` describes.

        Args:
            path: where.
            key: a secret of at least 16 bytes that they share.
            max_size: bytes of a request's body.

        Raises:
            ConfigurationError: the path cannot be, the mount exists, or the key is too short.
        """
        self.router.mount(path, PublishEndpoint(self.topic, key, max_size), http_host="*")

    def static(self, path: str, directory: str | Path, **options: Any) -> None:
        """Serve the files of a folder under a path; `options` are those of `StaticFolder`.

        Raises:
            ConfigurationError: there is no such folder.
        """
        self.mount(path, StaticFolder(directory, **options))

    def mount(self, path: str, component: MessageComponent | Routes, *, http_host: str | None = None) -> None:
        """Hand everything under a path, or with `path=""` everything not routed, to another app, router or component.

        Raises:
            ConfigurationError: the path cannot be, or the mount exists.
        """
        self.router.mount(path, component.router if isinstance(component, Routes) else component, http_host=http_host)
