"""Procedures: methods of a component that clients call.

{"id": 7, "method": "add", "params": {"a": 1, "b": 2}}
{"id": 7, "result": 3}
{"id": 7, "error": {"code": "not_found", "message": "there is no such room"}}
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pywsapp._extras import import_extra
from pywsapp._messages.annotations import evaluated
from pywsapp.codecs.base import Codec
from pywsapp.exceptions import CallError, ConfigurationError, InvalidMessage

#: Characters of the id of a call, if it is a text.
MAX_ID = 100
_MAX_SHOWN = 60
#: Reads the parameters of a call.
ReadParams = Callable[[Any, "str | int | None"], tuple[Any, Any]]
#: Makes the arguments of a procedure from the parameters of a call and its id; it raises `InvalidMessage`.
ReadArguments = Callable[..., dict[str, Any]]


class Procedure:
    """A procedure of a component class.

    Args:
        name: its name for clients.
        function: the method.
        label: names the method, for messages.

    Attributes:
        parameters: the types of its parameters by their names.
        result: the type of its result.

    Raises:
        ConfigurationError: the method has parameters that a call cannot have, or msgspec is not installed.
    """

    def __init__(self, name: str, function: Callable[..., Any], label: str) -> None:
        self.name = name
        self.function = function
        self.parameters: dict[str, Any] = {}
        signature = inspect.signature(function)
        fields: list[tuple[Any, ...]] = []
        for parameter in list(signature.parameters.values())[2:]:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ConfigurationError(f"{label}: a procedure has parameters with names, not {parameter}")
            kind = _kind_of(parameter.annotation, function, label)
            self.parameters[parameter.name] = kind
            has_default = parameter.default is not parameter.empty
            fields.append((parameter.name, kind, None) if has_default else (parameter.name, kind))
        self.result = _kind_of(signature.return_annotation, function, label)
        self.arguments = import_extra("pywsapp.codecs.with_msgspec", "msgspec").arguments_type(label, fields)

    def reader(self, codec: Codec) -> ReadParams:
        """Return a function that reads the parameters of a call in one codec."""
        read = self.arguments_reader(codec)
        return lambda params, call_id: (self.run, (call_id, read(params, call_id)))

    def arguments_reader(self, codec: Codec) -> ReadArguments:
        """Return a function that makes the arguments of the method from the parameters of a call in one codec."""
        convert = codec.converter(self.arguments)
        names = tuple(self.parameters)

        def read(params: Any, call_id: str | int | None = None) -> dict[str, Any]:
            if isinstance(params, list):
                if len(params) > len(names):
                    reason = f"there are {len(params)} parameters, not {len(names)}"
                    raise InvalidMessage(reason, "$.params", "invalid_params", call_id)
                params = dict(zip(names, params, strict=False))
            try:
                read = convert(params)
            except InvalidMessage as exc:
                path = f"$.params{exc.path[1:]}"
                raise InvalidMessage(exc.reason, path, "invalid_params", call_id) from None
            return {name: getattr(read, name) for name in names if name in params}

        return read

    def run(self, component: Any, conn: Any, call: tuple[str | int | None, dict[str, Any]]) -> Any:
        """Call the procedure and answer; return what must be awaited, if anything."""
        call_id, arguments = call
        try:
            result = self.function(component, conn, **arguments)
            if isinstance(result, Awaitable):
                return self._finish(conn, call_id, result)
            _answer(conn, call_id, result)
        except Exception as exc:
            _answer_error(conn, call_id, exc)
        return None

    async def _finish(self, conn: Any, call_id: str | int | None, result: Awaitable[Any]) -> None:
        try:
            _answer(conn, call_id, await result)
        except Exception as exc:
            _answer_error(conn, call_id, exc)


def read_call(value: dict[str, Any], procedures: Mapping[str, ReadParams]) -> tuple[Any, Any]:
    """Return what runs the procedure of a call, and the call.

    Raises:
        InvalidMessage: it is no valid call of one of the procedures.
    """
    method, call_id, params = value["method"], value.get("id"), value.get("params", {})
    if call_id is not None and not is_call_id(call_id):
        raise InvalidMessage(f"an id is an integer, or a text of at most {MAX_ID} characters", "$.id")
    read = procedures.get(method) if isinstance(method, str) else None
    if read is None:
        reason = f"there is no procedure {method!r:.{_MAX_SHOWN}}"
        raise InvalidMessage(reason, "$.method", "unknown_method", call_id)
    if not isinstance(params, (dict, list)):
        raise InvalidMessage("an object or an array was expected", "$.params", "invalid_params", call_id)
    return read(params, call_id)


def is_call_id(value: Any) -> bool:
    """Return whether a value can be the id of a call."""
    return (type(value) is int and -(2**63) <= value < 2**63) or (type(value) is str and len(value) <= MAX_ID)


def _kind_of(annotation: Any, function: Callable[..., Any], label: str) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    return evaluated(annotation, function, label) if isinstance(annotation, str) else annotation


def _answer(conn: Any, call_id: str | int | None, result: Any) -> None:
    if call_id is not None:
        conn.send({"id": call_id, "result": result})


def _answer_error(conn: Any, call_id: str | int | None, exc: Exception) -> None:
    """Answer a call that failed.

    Raises:
        Exception: `exc` itself, if it is no answer; the client then gets no more than the code "internal_error".
    """
    error = {"code": "internal_error", "message": "the procedure failed"}
    if isinstance(exc, CallError):
        error = {"code": exc.code, "message": exc.message}
    if call_id is not None:
        conn.send({"id": call_id, "error": error})
    if call_id is None or not isinstance(exc, CallError):
        raise exc
