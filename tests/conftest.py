"""Every async test runs on asyncio, on uvloop and on trio; and it is said which build of the library is tested."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import hatch_build

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]

#: Not run again on the other build: tests of tools, of both builds, and of what is in a browser, a broker, a balancer
#: or a supervisor, for that is no part of either.
ONCE = {
    "test_app_run.py",
    "test_architecture.py",
    "test_benchmarks.py",
    "test_asyncio_bridge.py",
    "test_local_bus.py",
    "test_local_bus_faults.py",
    "test_local_bus_model.py",
    "test_local_bus_own_messages.py",
    "test_local_bus_slow_workers.py",
    "test_local_frames.py",
    "test_cli.py",
    "test_faults.py",
    "test_load_balancers.py",
    "test_nats.py",
    "test_own_messages_of_brokers.py",
    "test_packaging.py",
    "test_publishing.py",
    "test_rabbitmq.py",
    "test_redis.py",
    "test_redis_faults.py",
    "test_redis_history.py",
    "test_run_workers.py",
    "test_supervisor.py",
    "test_compiled.py",
    "test_wsload.py",
}
ONCE_FIXTURE = "browser"


def pytest_configure() -> None:
    fault = None if os.environ.get("PYWSAPP_PURE") else hatch_build.fault_in_place()
    if fault is not None:
        raise pytest.UsageError(
            f"what is compiled is not what is in the source: {fault}; run: python hatch_build.py, "
            "or set PYWSAPP_PURE=1 to test the Python source"
        )


def pytest_report_header() -> str:
    # Not before the check above: what was compiled in part may not even be importable.
    from pywsapp._compiled import compiled, describe

    return f"pywsapp: {describe()}, {len(compiled())} of its modules compiled"


@pytest.hookimpl(tryfirst=True)  # before marks select
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in ONCE or ONCE_FIXTURE in getattr(item, "fixturenames", ()):
            item.add_marker("once")


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param
