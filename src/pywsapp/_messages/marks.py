"""Marks on methods of components: handlers of messages by their tags, and procedures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from pywsapp._signatures import check_no_function
from pywsapp.exceptions import ConfigurationError

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
#: The attributes of methods that are marked.
TAG_MARK = "_pywsapp_tag"
PROCEDURE_MARK = "_pywsapp_procedure"
#: Characters that the name of a procedure can have.
MAX_NAME = 100


def on(tag: str) -> Callable[[HandlerT], HandlerT]:
    """Mark a method `(self, conn, message)` of a component as the handler of the messages with a tag.

    The tag is the field `type` of a message, or the tag field of its `msgspec.Struct`. The annotation of `message` says
    what the fields are; without one it is a dict. A component with such handlers has no `on_message`.

    With Protocol Buffers, the tag is the name of a message field in a `oneof` of the class that `on_message` takes. The
    handler gets this field if it is set. `on_message` gets all other messages.

    Raises:
        ConfigurationError: the tag is no text.
    """
    check_no_function(tag, '@on("join")')
    if not isinstance(tag, str) or not tag:
        raise ConfigurationError(f'the tag of @on is a text such as "join", not {tag!r}')

    def mark(method: HandlerT) -> HandlerT:
        setattr(method, TAG_MARK, tag)
        return method

    return mark


@overload
def rpc(name: HandlerT) -> HandlerT: ...


@overload
def rpc(name: str) -> Callable[[HandlerT], HandlerT]: ...


def rpc(name: Any) -> Any:
    """Mark a method of a component as a procedure that clients can call: `@rpc` or `@rpc("math.add")`.

    The parameters after `conn` are those of the call, validated by their annotations. The return value is the
    result. It raises `CallError` to answer with an error.

    Args:
        name: the name for clients, by default that of the method.

    Raises:
        ConfigurationError: the name is empty or longer than 100 characters.
    """
    if callable(name):
        setattr(name, PROCEDURE_MARK, name.__name__)
        return name
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ConfigurationError(f"the name of @rpc is a text of at most {MAX_NAME} characters, not {name!r}")

    def mark(method: HandlerT) -> HandlerT:
        setattr(method, PROCEDURE_MARK, name)
        return method

    return mark
