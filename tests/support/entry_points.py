# ruff: noqa: E402, T201 - a command-line program that sets its path
"""Call every entry point of the extension modules with hostile arguments, on whole and on half-made objects.

It runs in a process of its own, because an extension module can crash its process:

    python tests/support/entry_points.py                      30 calls of each entry point
    python tests/support/entry_points.py --calls 2000 --seed 7
    python tests/support/entry_points.py --only PayloadBuffer

The entry points are found in the modules: every function, and every class with all of its attributes, also those that
Cython adds. A class of an extension module needs whole objects besides half-made ones, which `World` makes.

The result, in JSON on standard output, says what was called and what was wrong: an exception that no Python code could
expect (SystemError), and one that was ignored because it could not be raised. The last line of standard error names
the entry point that a crash or an endless loop happened in.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import copy
import faulthandler
import functools
import gc
import importlib
import inspect
import json
import logging
import pickle
import re
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from types import CoroutineType, GeneratorType
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import hatch_build

from pywsapp._histogram import Histogram
from pywsapp._lifecycle.eager_step import EagerTask
from pywsapp._lifecycle.keepalive import Keepalive
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._lifecycle.measures import Measures
from pywsapp._outbox.awaitables import ALREADY_DONE
from pywsapp._outbox.flushing import TurnFlusher
from pywsapp._outbox.outbox import Flusher
from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.event_stream import EventFormat, EventStream
from pywsapp._protocol.fallback import _FORMAT, FallbackStream
from pywsapp._protocol.frames import PayloadBuffer
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp._protocol.sending import Sender
from pywsapp._protocol.traffic import Traffic
from pywsapp._protocol.websocket import WebSocket
from pywsapp.component import MessageComponent
from pywsapp.http import Request
from pywsapp.options import Deflate, Options, SlowConsumer
from support.hostile_values import EDGES, FRAMES, PLAIN, HostileError, HostileExit, Trap, overridden, random_number

NAMES = sorted(name.replace("/", ".") for name in hatch_build.modules())
SECONDS = 60  # for the edges of an entry point, or for 1,000 calls; one takes a few milliseconds
MAX_DEPTH = 3  # of calls from a call
#: Attributes of every object that change its type, or end the process as they should.
SKIPPED = {"__class__", "__init_subclass__", "__subclasshook__", "__getattribute__"}

faults: list[str] = []


# -- whole objects -----------------------------------------------------------------------------------------------------


class World:
    """One open connection with everything that belongs to it; its transport, host and component are traps."""

    buffer: Any
    conn: Any
    lifecycle: Any
    outbox: Any
    prepared: Any
    transport: Any

    def __init__(self) -> None:
        self.depth = 0
        self.target: Any = None
        trap: Any = Trap(self.act)
        deflate = DeflateParameters(False, False, 15, 15) if random_number.random() < 0.3 else None
        policy = random_number.choice(list(SlowConsumer))
        self.options = Options(
            max_message_size=random_number.choice([100, 100_000, 1 << 63]),
            max_outbox=1000,
            high_water=random_number.choice([1, 10, 500]),
            slow_consumer=policy,
            max_queue=random_number.choice([1, 3, 100]),
            deflate=Deflate(),
        )
        self.scheduled: list[Callable[[], None]] = []
        self.flusher = TurnFlusher(self.scheduled.append)
        self.transport = Transport(self.act)
        self.host = Host(self.flusher, self.act)
        self.component = Component(self)
        self.ws = WebSocket(client=False, options=self.options, deflate=deflate)
        self.lifecycle = Lifecycle(self.component, Request(), self.ws, self.transport, self.options, self.host)
        self.machine = self.lifecycle.machine
        self.outbox = self.machine.outbox
        self.conn = self.lifecycle.conn
        loop: Any = asyncio.get_running_loop()
        self.eager_task = EagerTask(loop, trap, copy_context())
        if random_number.random() < 0.5:
            self.lifecycle.use_eager_task(self.eager_task)
        self.buffer = PayloadBuffer(1000)
        self.buffer.add(bytes(5000), 0, 5000, b"")
        self.prepared = PreparedMessage("hello" * random_number.randrange(100))
        self.whole = (
            *(
                self.lifecycle,
                self.machine,
                self.outbox,
                self.conn,
                self.ws,
                self.flusher,
                self.eager_task,
                self.buffer,
            ),
            *(self.prepared, Sender(client=False, options=self.options, deflate=deflate), Flusher(), Keepalive()),
            *(EventFormat("token"), EventStream(EventFormat(), self.options, 1)),
            *(FallbackStream(self.options), _FORMAT),
            *(Histogram(), Measures(), Traffic()),
        )

    def instance(self, cls: type) -> Any:
        """Return a whole object of a class; None if there is none."""
        return next((value for value in self.whole if type(value) is cls), None)

    def act(self) -> None:
        """Use the object under test, or one that it uses, while it is in a call."""
        if "whole" not in vars(self) or self.depth >= MAX_DEPTH:
            return
        self.depth += 1
        with contextlib.suppress(Exception, HostileExit):
            random_number.choice(ACTIONS)(self)
        if "depth" in vars(self):  # an action clears everything
            self.depth -= 1

    def argument(self, name: str) -> Any:
        """Return a value for a parameter: mostly one that fits its name, so that calls get beyond their checks."""
        number = random_number.random()
        if number < 0.45 and name in FITTING:
            return random_number.choice(FITTING[name])(self)
        if number < 0.85:
            return random_number.choice(PLAIN)()
        if number < 0.95:
            return Trap(self.act, random_number.choice(PLAIN)())
        base, value = random_number.choice(
            [(bytes, b"12345678"), (str, "12345678"), (int, 5), (list, [1]), (tuple, (b"", b""))]
        )
        return overridden(base, self.act, value)


class Transport(Trap):
    """A transport that takes everything."""

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Host:
    """A host that runs one step of each task."""

    def __init__(self, flusher: Flusher, act: Callable[[], None]) -> None:
        self.flusher = flusher
        self._act = act

    def start_soon(self, work: Callable[[], Any]) -> None:
        self._act()
        use_result(work())

    def disconnected(self, connection: Any) -> None:
        self._act()

    discard = user_changed = disconnected

    def exceeded(self, limit: str, conn: Any) -> None:
        self._act()


class Component(MessageComponent):
    """A component whose methods use the connection, and return or raise anything."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _handle(self, *args: Any) -> Any:
        self._world.act()
        number = random_number.randrange(6)
        if number == 0:
            raise HostileError
        return [None, 5, ALREADY_DONE, wait(), Trap(self._world.act)][number - 1]

    on_open = on_message = on_close = on_error = on_unsubscribe = _handle  # type: ignore[assignment]


async def wait() -> None:
    await asyncio.sleep(0)


ACTIONS: list[Callable[[World], Any]] = [
    lambda world: world.conn.send("text"),
    lambda world: world.conn.send(bytes(300_000)),
    lambda world: world.conn.close(),
    lambda world: world.conn.abort(),
    lambda world: world.lifecycle.connection_lost(None),
    lambda world: world.lifecycle.data_received(random_number.choice(FRAMES)),
    lambda world: world.outbox.clear(),
    lambda world: world.outbox.frames.clear(),
    lambda world: world.outbox.frames.append(random_number.choice(PLAIN)()),
    lambda world: world.outbox.drop_oldest(1),
    lambda world: world.outbox.lose(),
    lambda world: world.outbox.flush(),
    lambda world: world.outbox.resume(),
    lambda world: world.outbox.release(),
    lambda world: world.flusher.flush(),
    lambda world: world.flusher.filled.clear(),
    lambda world: world.flusher.filled.append(random_number.choice(PLAIN)()),
    lambda world: world.ws.abandon(),
    lambda world: world.ws.receive(random_number.choice(FRAMES)),
    lambda world: world.buffer.payload(),
    lambda world: world.buffer.__init__(3),
    lambda world: world.lifecycle._release(),
    lambda world: world.target.__init__(*[random_number.choice(PLAIN)()]),
    lambda world: vars(world).clear(),
    lambda world: [run() for run in world.scheduled],
    lambda world: gc.collect(0),
]
FITTING: dict[str, list[Callable[[World], Any]]] = {
    "data": [lambda world: random_number.choice(FRAMES), lambda world: bytes(40)],
    "message": [lambda world: "text", lambda world: bytes(300_000), lambda world: world.prepared],
    "mask": [lambda world: b"\1\2\3\4", lambda world: b""],
    "start": [lambda world: random_number.randrange(12)],
    "stop": [lambda world: random_number.randrange(12)],
    "size": [lambda world: random_number.choice([0, 5, 5000])],
    "ws": [lambda world: world.ws],
    "options": [lambda world: world.options],
    "transport": [lambda world: world.transport],
    "flusher": [lambda world: world.flusher],
    "owner": [lambda world: world.lifecycle],
    "driver": [lambda world: world.lifecycle],
    "outbox": [lambda world: world.outbox],
    "component": [lambda world: world.component],
    "host": [lambda world: world.host],
    "request": [lambda world: Request()],
    "deflate": [lambda world: DeflateParameters(False, False, 15, 15), lambda world: None],
    "connections": [lambda world: [world.conn] * 3, lambda world: [world.conn, None, 5]],
    "exclude": [lambda world: frozenset(), lambda world: frozenset([world.conn])],
    "event": [lambda world: next(iter(world.ws.receive(b"\x88\x80\0\0\0\0")))],
    "coroutine": [lambda world: wait()],
    "function": [lambda world: world.act],
    "code": [lambda world: 1000],
    "reason": [lambda world: "why"],
    "client": [lambda world: True, lambda world: False],
    "state": [lambda world: tuple([random_number.choice(PLAIN)() for _ in range(random_number.randrange(25))])],
}


PLAIN_FITTING: list[Callable[[World], Any]] = [lambda world: 1]


# -- calls -------------------------------------------------------------------------------------------------------------


class EntryPoint(NamedTuple):
    """A function of a module, or an attribute of a class.

    Attributes:
        owner: the class; None for a function.
    """

    name: str
    owner: Any
    attribute: str
    function: Any


def entry_points() -> Iterator[EntryPoint]:
    """Yield all entry points of the extension modules."""
    for module_name in NAMES:
        module = importlib.import_module(module_name)
        for name, value in sorted(vars(module).items(), key=lambda item: item[0]):
            if getattr(value, "__module__", None) != module_name:
                continue
            if not isinstance(value, type):
                if callable(value):
                    yield EntryPoint(f"{module_name}.{name}", None, name, value)
                continue
            for attribute in sorted({*dir(value), "__new__", "__init__"} - SKIPPED):
                found = inspect.getattr_static(value, attribute, None)
                yield EntryPoint(f"{module_name}.{name}.{attribute}", value, attribute, found)


def declared() -> set[str]:
    """Return what the .pxd files declare for Python: functions and methods with `cpdef`, and classes."""
    names = set()
    for path in sorted(hatch_build.SOURCE.rglob("*.pxd")):
        module, cls = path.relative_to(hatch_build.SOURCE).with_suffix("").as_posix().replace("/", "."), ""
        for line in path.read_text().splitlines():
            if found := re.match(r"cdef class (\w+)", line):
                cls = found[1]
                names.add(f"{module}.{cls}")
            elif found := re.match(r"( *)cpdef .*?(\w+)\(", line):
                names.add(f"{module}.{cls}.{found[2]}" if found[1] else f"{module}.{found[2]}")
    return names


def is_own(point: EntryPoint) -> bool:
    """Return whether an entry point is not one that every object has."""
    return point.attribute in ("__init__", "__new__") or not hasattr(object, point.attribute)


def is_extension_type(cls: type) -> bool:
    return not cls.__flags__ & 1 << 9  # a heap type, which a class statement makes


def use_result(value: Any) -> None:
    """Run what a call has returned, if it can be run: one step, an exception, and the end."""
    if not isinstance(value, (CoroutineType, GeneratorType)):
        return
    try:
        value.send(None)
        value.throw(HostileError())
    finally:
        value.close()


@functools.cache
def constructors() -> dict[str, list[inspect.Parameter]]:
    """Return the parameters of `__init__` of each class, from the sources: extension types do not tell them."""
    found = {}
    for name in NAMES:
        tree = ast.parse((hatch_build.SOURCE / f"{name.replace('.', '/')}.py").read_text())
        for cls in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            for node in cls.body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    kinds = (
                        (inspect.Parameter.POSITIONAL_OR_KEYWORD, node.args.args[1:]),
                        (
                            inspect.Parameter.KEYWORD_ONLY,
                            node.args.kwonlyargs,
                        ),
                    )
                    found[cls.name] = [inspect.Parameter(arg.arg, kind) for kind, args in kinds for arg in args]
    return found


def parameters_of(function: Any) -> list[inspect.Parameter] | None:
    """Return the parameters of a function without `self`; None if it does not tell them."""
    if getattr(function, "__name__", "") == "__init__" and hasattr(function, "__objclass__"):
        return constructors().get(function.__objclass__.__name__)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    return parameters[1:] if parameters and parameters[0].name == "self" else parameters


def edge_arguments(
    world: World, parameters: list[inspect.Parameter], at: int, value: Any
) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments that fit, except for one of them."""
    args, options = list[Any](), dict[str, Any]()
    for number, parameter in enumerate(parameters):
        fitting = FITTING.get(parameter.name, PLAIN_FITTING)
        argument = value if number == at else fitting[0](world)
        if parameter.kind is parameter.KEYWORD_ONLY:
            options[parameter.name] = argument
        else:
            args.append(argument)
    return args, options


def call_with_edge(point: EntryPoint, world: World, at: int, value: Any) -> None:
    """Call an entry point on a whole object with one value that does not fit."""
    function = point.function
    if point.attribute == "__init__" and point.owner is not None:
        function = point.owner
    elif point.owner is not None:
        world.target = world.instance(point.owner) or point.owner.__new__(point.owner)
        function = getattr(world.target, point.attribute)
    args, options = edge_arguments(world, parameters_of(point.function) or [], at, value)
    use_result(function(*args, **options))


def arguments(world: World, function: Any) -> tuple[list[Any], dict[str, Any]]:
    parameters = parameters_of(function)
    if parameters is None:
        return [world.argument("") for _ in range(random_number.randrange(4))], {}
    args, options = list[Any](), dict[str, Any]()
    for parameter in parameters:
        if parameter.default is not parameter.empty and random_number.random() < 0.4:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            options[parameter.name] = world.argument(parameter.name)
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) and not options:
            args.append(world.argument(parameter.name))
    if random_number.random() < 0.05:
        args = args[:-1] if random_number.random() < 0.5 else [*args, None]
    return args, options


def target_of(world: World, cls: Any) -> Any:
    """Return an object of a class: whole, half-made, of a subclass, or made of hostile arguments."""
    number = random_number.randrange(8)
    whole = world.instance(cls)
    if whole is not None and number < 4:
        if number == 3:
            args, options = arguments(world, cls.__init__)
            with contextlib.suppress(Exception):
                whole.__init__(*args, **options)
        return whole
    if number == 4:
        subclass: Any = type("Subclass", (cls,), {"__del__": lambda self: world.act()})
        return subclass.__new__(subclass)
    if number == 5:
        args, options = arguments(world, cls.__init__)
        with contextlib.suppress(Exception):
            return cls(*args, **options)
    return cls.__new__(cls)


def call(point: EntryPoint, world: World) -> None:
    """Call an entry point once; exceptions are what Python code expects."""
    if point.owner is None:
        args, options = arguments(world, point.function)
        use_result(point.function(*args, **options))
        return
    if point.attribute == "__new__":
        args, options = arguments(world, point.owner.__init__)
        point.owner.__new__(point.owner, *args, **options)
        return
    world.target = target = target_of(world, point.owner)
    number = random_number.randrange(10)
    if number == 0:
        setattr(target, point.attribute, world.argument(point.attribute))
    elif number == 1:
        delattr(target, point.attribute)
    value = getattr(target, point.attribute)
    if callable(value):
        args, options = arguments(world, point.function)
        use_result(value(*args, **options))


def use_as_object(cls: type, world: World) -> None:
    """Copy, pickle, compare, print and refer weakly to an object."""
    target = target_of(world, cls)
    uses: list[Callable[[Any], Any]] = [
        copy.copy,
        copy.deepcopy,
        *(lambda value, number=number: pickle.loads(pickle.dumps(value, number)) for number in range(6)),
        lambda value: value.__reduce_ex__(2)[0](*value.__reduce_ex__(2)[1][:-1], tuple(range(30))),
        lambda value: value.__setstate__(tuple([random_number.choice(PLAIN)() for _ in range(20)])),
        weakref.ref,
        weakref.proxy,
        repr,
        hash,
        sys.getsizeof,
        gc.get_referents,
        lambda value: value == value and value < value,
        lambda value: [value, {value: value}],
        lambda value: iter(value),
        lambda value: memoryview(value),
    ]
    random_number.choice(uses)(target)


def attempt(function: Callable[..., None], name: str, *args: Any) -> None:
    """Call a function, and note an exception that Python code cannot expect."""
    try:
        function(*args)
    except SystemError as exc:
        faults.append(f"{name}: SystemError: {exc}")
    except (Exception, HostileExit):
        pass


def note_ignored(unraisable: Any) -> None:
    """Note an exception that a function of pywsapp could not raise."""
    owner = f"{getattr(unraisable.object, '__module__', '')} {unraisable.object!r}"
    if "pywsapp" in owner and unraisable.exc_type is not HostileExit:
        faults.append(f"ignored in {owner}: {unraisable.exc_type.__name__}: {unraisable.exc_value}")


def run(calls: int, only: str) -> dict[str, Any]:
    found = [point for point in entry_points() if only in point.name]
    classes = {point.owner: None for point in found if point.owner is not None}
    world = World()
    missing = [cls.__name__ for cls in classes if is_extension_type(cls) and world.instance(cls) is None]
    names = {point.name for point in found} | {f"{cls.__module__}.{cls.__name__}" for cls in classes}
    undetected = sorted(declared() - names) if not only else []
    number = 0
    for point in found:
        print(point.name, file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        parameters = parameters_of(point.function) or [] if is_own(point) else []
        for at in range(len(parameters)):
            for edge in EDGES:
                attempt(call_with_edge, point.name, point, World(), at, edge())
                number += 1
        for use in range(calls if is_own(point) else (calls + 3) // 4):
            if use % 1000 == 0:
                faulthandler.dump_traceback_later(SECONDS, exit=True)
            attempt(call, point.name, point, World())
            number += 1
    for cls in classes:
        print("an object of", cls, file=sys.stderr, flush=True)
        for use in range(10 * calls):
            if use % 1000 == 0:
                faulthandler.dump_traceback_later(SECONDS, exit=True)
            attempt(use_as_object, cls.__name__, cls, World())
            number += 1
        gc.collect()
    faulthandler.cancel_dump_traceback_later()
    print("the end", file=sys.stderr, flush=True)
    return {
        "entry points": [point.name for point in found],
        "extension types": sorted(cls.__name__ for cls in classes if is_extension_type(cls)),
        "without whole objects": missing,
        "declared, not found": undetected,
        "calls": number,
        "faults": sorted(set(faults)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=30, help="of each entry point (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices (default: %(default)s)")
    parser.add_argument("--only", default="", help="a part of the names of the entry points to call")
    args = parser.parse_args()
    faulthandler.enable()
    logging.disable()
    warnings.simplefilter("ignore")
    sys.unraisablehook = note_ignored
    random_number.seed(args.seed)

    async def here() -> dict[str, Any]:
        return run(args.calls, args.only)

    result = asyncio.run(here())
    print(json.dumps(result), flush=True)
    return 1 if result["faults"] or result["without whole objects"] or result["declared, not found"] else 0


if __name__ == "__main__":
    sys.exit(main())
