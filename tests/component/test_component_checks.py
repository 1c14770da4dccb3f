"""Mistakes in a component that are found when it is routed: misspelt hooks, and methods that look like hooks."""

from __future__ import annotations

from typing import Any

import pytest
from support.serving import serving

from pywsapp import App, ConfigurationError, Connection, HandshakeMiddleware, MessageComponent, Router
from pywsapp._hooks import HOOKS, check_component, make_component
from pywsapp.component import handler


def component_with(*names: str, bases: tuple[type, ...] = (MessageComponent,), **attributes: Any) -> type[Any]:
    methods = {name: lambda self, *arguments: None for name in names}
    return type("Chat", bases, {**methods, **attributes})


def test_all_hooks_are_methods_of_the_base_class() -> None:
    methods = {name for name in vars(MessageComponent) if name.startswith("on_")}
    assert set(HOOKS) == methods


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_mesage", "on_message"),
        ("on_messages", "on_message"),
        ("on_opened", "on_open"),
        ("on_clsoe", "on_close"),
        ("on_err", "on_error"),
        ("on_unsubcribe", "on_unsubscribe"),
        ("on_handshakes", "on_handshake"),
        ("onMessage", "on_message"),
        ("onopen", "on_open"),
        ("on_Close", "on_close"),
    ],
)
@pytest.mark.parametrize("instance", [True, False], ids=["instance", "class"])
def test_misspelt_hook_cannot_be_routed(name: str, meant: str, instance: bool) -> None:
    kind = component_with(name)
    app = App()
    for _ in range(2):
        with pytest.raises(
            ConfigurationError, match=rf"^Chat\.{name} is never called: did you mean {meant}\? Rename it"
        ):
            app.route("/", kind() if instance else kind)


def test_misspelt_hook_of_a_base_component_is_found_too() -> None:
    base = type("Base", (MessageComponent,), {"on_mesage": lambda self: None})
    with pytest.raises(ConfigurationError, match=r"^Base\.on_mesage is never called"):
        check_component(component_with(bases=(base,)))


@pytest.mark.anyio
async def test_misspelt_hook_of_a_component_from_a_function_fails_the_handshake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kind = component_with("on_mesage")
    async with serving(HandshakeMiddleware(lambda: kind())) as server, server.client(expected=500):
        pass
    [record] = caplog.records
    assert record.exc_info is not None
    assert "did you mean on_message?" in str(record.exc_info[1])


def test_method_that_only_looks_like_a_hook_is_a_warning_once(caplog: pytest.LogCaptureFixture) -> None:
    kind = component_with("on_join", "on_connect")
    router = Router()
    router.route("/one", kind)
    router.route("/two", kind())
    make_component(lambda: kind())
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("Chat.on_connect is never called by pywsapp, which calls on_handshake, on_open, on_message")
    assert second.startswith("Chat.on_join is never called by pywsapp")
    assert "mark it with @pywsapp.component.handler" in first
    assert {record.levelname for record in caplog.records} == {"WARNING"}


class Announces:
    """A mixin."""

    def on_closed(self) -> None: ...
    def on_announce(self) -> None: ...


class Rooms(MessageComponent):
    """A component for others to subclass."""

    @handler
    def on_join(self, conn: Connection) -> None: ...
    def on_leave(self, conn: Connection) -> None: ...


class Lobby(Rooms):
    def on_join(self, conn: Connection) -> None: ...
    def on_leave(self, conn: Connection) -> None: ...


class MarkedTypo(MessageComponent):
    @handler
    def on_opened(self) -> None: ...

    @handler
    @classmethod
    def on_errors(cls) -> None: ...


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(component_with("on_announce", "on_closed", bases=(Announces, MessageComponent)), id="of a mixin"),
        pytest.param(Lobby, id="of a base component"),
        pytest.param(MarkedTypo, id="marked"),
        pytest.param(component_with("online", "once", "only"), id="another word"),
        pytest.param(component_with(on_air=True, on_messages=()), id="no methods"),
    ],
)
def test_other_names_pass(kind: type[Any], caplog: pytest.LogCaptureFixture) -> None:
    for component in (kind, kind()):
        assert check_component(component) is component
    assert caplog.records == []


@pytest.mark.parametrize("instance", [True, False], ids=["instance", "class"])
@pytest.mark.parametrize("value", [None, "text", 7])
def test_hook_must_be_a_method(value: Any, instance: bool) -> None:
    kind = component_with(on_message=value)
    with pytest.raises(ConfigurationError, match=rf"^Chat\.on_message must be a method, not {value!r}$"):
        check_component(kind() if instance else kind)


def test_on_unsubscribe_may_be_async() -> None:
    class Chat(MessageComponent):
        async def on_unsubscribe(self, conn: Connection, topic: Any) -> None: ...

    assert check_component(Chat) is Chat
