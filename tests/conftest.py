"""Run every async test on asyncio, uvloop and trio, and print which build of the library is tested."""

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

#: Files that run on one build only: tests of documents and tools, tests that build both builds themselves, and tests of
#: brokers, load balancers and supervisors, which have no compiled modules.
ONCE = {
    "test_app_run.py",
    "test_architecture.py",
    "test_asyncio_bridge.py",
    "test_asyncio_thread.py",
    "test_benchmarks.py",
    "test_check_broker.py",
    "test_cli.py",
    "test_compiled.py",
    "test_fault_record.py",
    "test_faults.py",
    "test_interleave.py",
    "test_layout.py",
    "test_links.py",
    "test_load_balancers.py",
    "test_local_bus.py",
    "test_local_bus_faults.py",
    "test_local_bus_model.py",
    "test_local_bus_own_messages.py",
    "test_local_bus_slow_workers.py",
    "test_local_frames.py",
    "test_log_filter.py",
    "test_mutate.py",
    "test_nats.py",
    "test_own_messages_of_brokers.py",
    "test_packaging.py",
    "test_publishing.py",
    "test_rabbitmq.py",
    "test_ratchet_cases.py",
    "test_ratchet_docs.py",
    "test_redis.py",
    "test_redis_connection.py",
    "test_redis_faults.py",
    "test_redis_history.py",
    "test_run_workers.py",
    "test_sizing.py",
    "test_supervisor.py",
    "test_workflows.py",
    "test_wsload.py",
    "test_wsload_command_line.py",
    "test_wsload_probe.py",
    "test_wsload_tls.py",
}
#: A fixture whose tests run on one build only.
ONCE_FIXTURE = "browser"


def pytest_configure() -> None:
    fault = None if os.environ.get("PYWSAPP_PURE") else hatch_build.fault_in_place()
    if fault is not None:
        raise pytest.UsageError(
            f"the extension modules are out of date: {fault}; run: python hatch_build.py, "
            "or set PYWSAPP_PURE=1 to test the pure Python build"
        )


def pytest_report_header() -> str:
    # This import follows the check above, because outdated extension modules can fail to import.
    from pywsapp._compiled import compiled, describe

    return f"pywsapp: {describe()}, {len(compiled())} extension modules"


@pytest.hookimpl(tryfirst=True)  # -m selects by marks after this
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in ONCE or ONCE_FIXTURE in getattr(item, "fixturenames", ()):
            item.add_marker("once")


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param
