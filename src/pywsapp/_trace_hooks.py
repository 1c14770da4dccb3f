"""The extension point for traces: what an App calls where something begins and ends that a trace can show.

`pywsapp.telemetry` implements it. An App without telemetry has no hooks. No message asks for them: when the App starts,
the hooks return functions and components that take the place of others. Only the ends of requests ask, once each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from pywsapp.exceptions import Refuse
from pywsapp.http import Request

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
ComponentT = TypeVar("ComponentT")


class TraceHooks(ABC):
    """Traces one App in one process; `TopicRegistry.trace_hooks` has it."""

    # -- requests ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def around_component(self, component: ComponentT, is_probe: Callable[[Request], bool]) -> ComponentT:
        """Return what a server asks in place of its component; the server calls this when it starts.

        Args:
            component: the component.
            is_probe: returns whether a plain request is a health check, or asks for metrics.
        """

    @abstractmethod
    def inside(self, request: Request) -> AbstractContextManager[object]:
        """Return a context manager whose block belongs to the span of a request."""

    @abstractmethod
    def ended(self, request: Request, status: int, refusal: Refuse | None = None, *, is_complete: bool = True) -> None:
        """Note the answer to a request; do nothing if the end of the request was noted before.

        Args:
            request: the request.
            status: the HTTP status of the answer.
            refusal: why the request is refused; None if it is not.
            is_complete: whether the whole body was sent.
        """

    @abstractmethod
    def abandoned(self, request: Request) -> None:
        """Note that a request gets no answer; do nothing if the end of the request was noted before."""

    # -- topics ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def traceparent(self) -> str | None:
        """Return the `traceparent` for a message that is published now; None without one."""

    @abstractmethod
    def around_receive(self, receive: FunctionT, is_delivered: Callable[..., bool]) -> FunctionT:
        """Return what handles envelopes from the broker in place of a function.

        Args:
            receive: the function; it takes a topic's name, an envelope and a position.
            is_delivered: takes the same, and returns whether the envelope is genuine and no echo of this process.
        """

    @abstractmethod
    def publishing(self, request: Request, topic: str) -> AbstractContextManager[object]:
        """Return a context manager for a block that publishes what a program has sent in a request.

        Args:
            request: the request, whose signature is verified.
            topic: the topic's name.
        """

    @abstractmethod
    def note_context(self) -> Any:
        """Return what the function of `around_listener` gets as its first argument; called when an event comes."""

    @abstractmethod
    def around_listener(self, function: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
        """Return what is called in place of a listener, with one more argument before the others.

        Args:
            function: the listener.
            is_async: whether the listener is async; what is called in its place is then async too.
        """

    # -- webhooks ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def around_post(self, url: str, post: FunctionT) -> FunctionT:
        """Return what sends a request of a webhook in place of a function.

        Args:
            url: the URL for logs.
            post: the function; it takes header fields and a body.
        """


def publishing(hooks: TraceHooks | None, request: Request, topic: str) -> AbstractContextManager[object]:
    """Return a context manager for a block that publishes what a program has sent; see `TraceHooks.publishing`."""
    return nullcontext() if hooks is None else hooks.publishing(request, topic)
