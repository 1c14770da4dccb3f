"""The hooks of components: their names, the checks of a component, and the results of hooks.

A hook is a method of `MessageComponent` that the library calls. This module is the only place that lists them.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar, cast
from weakref import WeakSet

from pywsapp._log_fields import log_fields
from pywsapp._messages.marks import PROCEDURE_MARK, TAG_MARK
from pywsapp._messages.typed import prepare
from pywsapp._protocol.http import TOKEN
from pywsapp._signatures import check_takes, name_of
from pywsapp.component import HANDLER_MARK, Accept, ComponentFactory, HandshakeAnswer, MessageComponent
from pywsapp.exceptions import ConfigurationError
from pywsapp.http import Response

T = TypeVar("T")
R = TypeVar("R")
logger = logging.getLogger("pywsapp")

#: The hooks of a component with their arguments.
HOOKS = {
    "on_handshake": ("request",),
    "on_open": ("conn",),
    "on_message": ("conn", "message"),
    "on_close": ("conn",),
    "on_error": ("conn", "exc"),
    "on_subscribe": ("conn", "topic"),
    "on_unsubscribe": ("conn", "topic"),
    "on_request": ("request",),
    "on_invalid": ("conn", "error"),
}
#: `difflib.SequenceMatcher.ratio` from which a name counts as a misspelt hook: `on_mesage`, `on_opened` and `on_err`
#: are above it; `on_reset`, `on_pong` and `on_connect` are below it.
_NEARLY = 0.75
#: The optional hooks, which can be objects too, with their arguments.
OPTIONAL_HOOKS = {"authenticate": ("request",), "authorize": ("conn", "action", "topic")}
#: The ratio for these, which is higher because methods such as `authenticate_user` are usual. `authorise` is above it.
_NEARLY_OPTIONAL = 0.88
_checked: WeakSet[type[MessageComponent]] = WeakSet()


# -- checking a component ----------------------------------------------------------------------------------------------


def check_component(component: object) -> MessageComponent | ComponentFactory:
    """Check that something can be routed: a component, or a class or function that makes one.

    Raises:
        ConfigurationError: it cannot be routed, a hook takes the wrong arguments, a method has nearly the name of a
            hook, or its `subprotocols` are not valid.
    """
    if isinstance(component, MessageComponent):
        _check_hooks(component, type(component), ())
        return component
    if isinstance(component, type):
        if not issubclass(component, MessageComponent):
            raise ConfigurationError(f"{component.__name__} must be a subclass of MessageComponent")
        _check_hooks(component, component, ("self",))
        _check_factory(component, "route an instance, or a function that makes one")
        return component
    if callable(component):
        if inspect.iscoroutinefunction(component) or inspect.isasyncgenfunction(component):
            raise ConfigurationError(
                f"a route needs a MessageComponent, not the async def {name_of(component)}: "
                "write a class with the method on_message(self, conn, message)"
            )
        _check_factory(component, "a route takes a function without arguments that returns a MessageComponent")
        return component
    kind = type(component)
    hint = f"; write class {kind.__name__}(MessageComponent):" if any(hasattr(kind, name) for name in HOOKS) else ""
    raise ConfigurationError(
        f"a route needs a MessageComponent (or a class or function that makes one), not {component!r}{hint}"
    )


def _check_factory(factory: Callable[..., object], hint: str) -> None:
    try:
        inspect.signature(factory).bind()
    except TypeError as exc:
        raise ConfigurationError(f"{name_of(factory)}() cannot make a component: {exc}; {hint}") from None
    except ValueError:
        return  # a builtin without a signature


def checked_subprotocols(names: Sequence[str], label: str) -> tuple[str, ...]:
    """Return the names of subprotocols.

    Args:
        names: the names, the preferred one first.
        label: what has them, for the message.

    Raises:
        ConfigurationError: a name is not valid, or the names are one str.
    """
    if isinstance(names, str):
        raise ConfigurationError(f"{label} is a list: write [{names!r}]")
    for name in names:
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            raise ConfigurationError(f"{name!r} cannot be a subprotocol: use letters, digits and !#$%&'*+-.^_`|~ only")
    return tuple(names)


def make_component(source: MessageComponent | ComponentFactory) -> MessageComponent:
    """Return the component for a new connection: the shared instance, or a new one from the factory.

    Raises:
        TypeError: the factory returned something else than a component.
        ConfigurationError: the factory returned a component that `check_component` refuses.
    """
    if isinstance(source, MessageComponent):
        return source
    component = source()
    if not isinstance(component, MessageComponent):
        raise TypeError(f"{source!r} must return a MessageComponent, but returned {component!r}")
    if type(component) not in _checked:
        check_component(component)
    return component


def check_named(component: MessageComponent) -> None:
    """Check a component that an `Accept` names, once for each class.

    Raises:
        ConfigurationError: see `check_component`.
    """
    if type(component) not in _checked:
        check_component(component)


def _check_hooks(owner: object, kind: type[MessageComponent], before: tuple[str, ...]) -> None:
    for name, arguments in {**HOOKS, **kind._more_hooks}.items():
        _check_hook(getattr(owner, name), f"{kind.__name__}.{name}", arguments, before)
    for name, arguments in {**OPTIONAL_HOOKS, **kind._more_optional_hooks}.items():
        _check_optional(getattr(owner, name, None), f"{kind.__name__}.{name}", arguments, before)
    if isinstance(kind.subprotocols, (str, list, tuple)):  # and not a property, whose value can change
        checked_subprotocols(kind.subprotocols, f"{kind.__name__}.subprotocols")
    if kind not in _checked:
        _check_names(kind)
        if kind._find_handlers is None:
            prepare(kind)
        else:
            kind._find_handlers(kind)
        _checked.add(kind)


def _check_hook(hook: object, label: str, arguments: tuple[str, ...], before: tuple[str, ...]) -> None:
    if not callable(hook):
        raise ConfigurationError(f"{label} must be a method, not {hook!r}")
    if inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
        raise ConfigurationError(f"{label} has a yield, so it would never run: write conn.send(...) to send a message")
    check_takes(hook, (*before, *arguments), label, shown=("self", *arguments))


def _check_optional(hook: object, label: str, arguments: tuple[str, ...], before: tuple[str, ...]) -> None:
    if hook is None:
        return
    if isinstance(hook, type):
        raise ConfigurationError(f"{label} must be a method or an object, not a class: write {hook.__name__}(...)")
    _check_hook(hook, label, arguments, before if inspect.isfunction(hook) else ())


def _check_names(kind: type[MessageComponent]) -> None:
    """Refuse methods that nearly have a hook's name, and warn about other methods that look like hooks.

    Methods that a mixin (a base class that is no component) declares, or that are marked with `handler`, are not
    checked. A method that a base class declares is no surprise to the reader, so only its spelling is checked.
    """
    hooks, optional = {**HOOKS, **kind._more_hooks}, {**OPTIONAL_HOOKS, **kind._more_optional_hooks}
    for name in dir(kind):
        if (
            not name.startswith(("on", "a", "A"))
            or name in hooks
            or name in optional
            or not callable(getattr(kind, name, None))
        ):
            continue
        declaring = [base for base in kind.__mro__ if name in vars(base)]
        if not all(issubclass(base, MessageComponent) for base in declaring):
            continue
        if any(_is_marked(vars(base)[name]) for base in declaring):
            continue
        meant = _hook_meant_by(name, hooks, optional)
        if meant is not None:
            raise ConfigurationError(
                f"{declaring[0].__name__}.{name} is never called: did you mean {meant}? "
                "Rename it, or mark it with @pywsapp.component.handler if you call it yourself"
            )
        if name.startswith("on_") and declaring == [kind]:
            logger.warning(
                "%s.%s is never called by pywsapp, which calls %s; mark it with @pywsapp.component.handler "
                "if you call it yourself",
                kind.__name__,
                name,
                ", ".join(hooks),
                extra=log_fields("component.unknown_hook", component=kind.__name__, handler=name),
            )


def _is_marked(member: object) -> bool:
    function = getattr(member, "__func__", member)  # of a classmethod or staticmethod
    return any(hasattr(member, mark) or hasattr(function, mark) for mark in (HANDLER_MARK, TAG_MARK, PROCEDURE_MARK))


def _hook_meant_by(name: str, hooks: Iterable[str], optional: Iterable[str]) -> str | None:
    """Return the hook that a misspelt name, such as `on_mesage` or `onMessage`, stands for; None if there is none."""
    plain = {hook.replace("_", ""): hook for hook in hooks}
    plain |= dict.fromkeys(("onauthenticate", "onauthentication", "authenticate"), "authenticate")
    plain |= dict.fromkeys(("onauthorize", "onauthorise", "onauthorization", "authorize", "authorise"), "authorize")
    if name.replace("_", "").lower() in plain:
        return plain[name.replace("_", "").lower()]
    if not name.startswith("on_"):
        near = difflib.get_close_matches(name, optional, 1, _NEARLY_OPTIONAL)
        return near[0] if near else None
    near = difflib.get_close_matches(name[3:], [hook[3:] for hook in hooks], 1, _NEARLY)
    return f"on_{near[0]}" if near else None


# -- what hooks return -------------------------------------------------------------------------------------------------


def as_accept(answer: HandshakeAnswer, component: MessageComponent) -> Accept:
    """Return the `Accept` for what `on_handshake` returned, with its component filled in.

    Raises:
        TypeError: `on_handshake` returned something else than None, a str or an Accept.
    """
    if answer is None:
        return Accept(component=component._for_connection())
    if isinstance(answer, str):
        return Accept(component=component._for_connection(), subprotocol=answer)
    if isinstance(answer, Accept):
        if answer.component is not None:
            return answer
        return dataclasses.replace(answer, component=component._for_connection())
    raise TypeError(
        f"{type(component).__name__}.on_handshake must return None, a subprotocol or an Accept, not {answer!r}; "
        "raise Refuse(403) to refuse a handshake"
    )


def must_await(result: object) -> bool:
    """Return whether `result` must be awaited; the usual results of hooks are recognised first, which is fast."""
    return result is not None and not isinstance(result, (Accept, str, Response)) and inspect.isawaitable(result)


def then(result: T | Awaitable[T], step: Callable[[T], R | Awaitable[R]]) -> R | Awaitable[R]:
    """Apply `step` to a result, after awaiting the result if that is needed; what `step` returns is awaited then too.

    No coroutine is made for a result that need not be awaited.
    """
    if result is None or type(result) is Accept or not must_await(result):
        return step(cast("T", result))
    return _then(cast("Awaitable[T]", result), step)


async def _then(result: Awaitable[T], step: Callable[[T], R | Awaitable[R]]) -> R:
    value = step(await result)
    return await cast("Awaitable[R]", value) if must_await(value) else cast("R", value)
