"""Run every async test on asyncio, uvloop and trio; print which build is tested; choose the tests that run alone."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent.parent))
import hatch_build

if TYPE_CHECKING:
    from support.side_by_side import FileScheduling

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]

#: Files that run on one build only: tests of documents and tools, tests that build both builds themselves, and tests of
#: brokers, load balancers and supervisors, which have no compiled modules.
ONCE = {
    "test_annotations.py",
    "test_api_keys.py",
    "test_app_run.py",
    "test_architecture.py",
    "test_asgi_hosts.py",
    "test_asgi_http.py",
    "test_asgi_sites.py",
    "test_asyncio_bridge.py",
    "test_asyncio_thread.py",
    "test_benchmarks.py",
    "test_broker_frames.py",
    "test_budget_table.py",
    "test_check_broker.py",
    "test_check_codec.py",
    "test_cli.py",
    "test_codecs.py",
    "test_description.py",
    "test_django_sessions.py",
    "test_extension_entry_points.py",
    "test_extras.py",
    "test_client_keys.py",
    "test_compiled.py",
    "test_fault_log.py",
    "test_fault_network.py",
    "test_fault_proxy.py",
    "test_fault_record.py",
    "test_flask_sessions.py",
    "test_faults.py",
    "test_hostile_messages.py",
    "test_interleave.py",
    "test_jwks.py",
    "test_jwt.py",
    "test_layout.py",
    "test_limit_report.py",
    "test_links.py",
    "test_load_balancers.py",
    "test_local_bus.py",
    "test_lock.py",
    "test_local_bus_faults.py",
    "test_local_bus_hostile.py",
    "test_local_bus_model.py",
    "test_local_bus_own_messages.py",
    "test_local_bus_slow_workers.py",
    "test_local_frames.py",
    "test_log_filter.py",
    "test_memcached_sessions.py",
    "test_memory_sessions.py",
    "test_mutate.py",
    "test_nats.py",
    "test_origin_fields.py",
    "test_own_messages_of_brokers.py",
    "test_php_format.py",
    "test_php_sessions.py",
    "test_procedures.py",
    "test_packaging.py",
    "test_publishing.py",
    "test_rabbitmq.py",
    "test_ratchet_cases.py",
    "test_ratchet_docs.py",
    "test_reauthorize.py",
    "test_tags.py",
    "test_redis.py",
    "test_request_smuggling.py",
    "test_redis_connection.py",
    "test_redis_faults.py",
    "test_redis_history.py",
    "test_redis_sessions.py",
    "test_run_workers.py",
    "test_shared_limit.py",
    "test_signed_urls.py",
    "test_sanitize.py",
    "test_sizing.py",
    "test_soak.py",
    "test_soak_numbers.py",
    "test_starlette_sessions.py",
    "test_supervisor.py",
    "test_tickets.py",
    "test_tls_handshake.py",
    "test_tls_transport.py",
    "test_token_bucket.py",
    "test_user_limit.py",
    "test_topic_rules.py",
    "test_tls_clients.py",
    "test_tls_development.py",
    "test_tls_hosts.py",
    "test_tls_reload.py",
    "test_workflows.py",
    "test_wsload.py",
    "test_wsload_command_line.py",
    "test_wsload_probe.py",
    "test_wsload_tls.py",
}
#: A fixture whose tests run on one build only.
ONCE_FIXTURE = "browser"

#: Files whose tests run alone, after the others, and why. The others run side by side, in two processes.
ALONE = {
    "test_conformance.py": "it uses both processors itself",
    "test_faults.py": "it uses both processors itself",
    "test_soak.py": "it uses both processors itself",
}
#: Directories whose files take the longest. They are tested first, so that both processes end at about the same time.
FIRST = ("asgi", "process", "brokers", "demo", "deploy", "tools")
#: Files that share a fixture which is slow to start, and its name; one process runs them all.
TOGETHER = {
    "test_asyncapi_parser.py": "packages of npm",
    "test_interleave.py": "wsload",
    "test_hostile_messages.py": "rabbit",
    "test_own_messages_of_brokers.py": "rabbit",
    "test_publishing.py": "rabbit",
    "test_rabbitmq.py": "rabbit",
    "test_typescript.py": "packages of npm",
    "test_wsload.py": "wsload",
    "test_wsload_command_line.py": "wsload",
    "test_wsload_probe.py": "wsload",
    "test_wsload_tls.py": "wsload",
}


# How long an example takes depends on what runs beside the test.
settings.register_profile("tests", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part",
        choices=["side-by-side", "alone"],
        help="run only the tests without or with the mark `alone`; `-n 2 --dist loadfile` runs two files at a time",
    )


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


def is_in_part(path: Path, config: pytest.Config) -> bool:
    """Return whether the tests of a file belong to the part that `--part` selects."""
    part = config.getoption("part")
    return part is None or (path.name in ALONE) == (part == "alone")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import the files of the other part, which takes seconds; files in the command line are imported anyway."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_test and not is_in_part(collection_path, config) else None


@pytest.hookimpl(tryfirst=True)  # -m selects by marks after this
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = [item for item in items if not is_in_part(item.path, config)]
    if others:
        items[:] = [item for item in items if is_in_part(item.path, config)]
        config.hook.pytest_deselected(items=others)
    for item in items:
        if item.path.name in ONCE or ONCE_FIXTURE in getattr(item, "fixturenames", ()):
            item.add_marker("once")
        if item.path.name in ALONE:
            item.add_marker("alone")
    items.sort(key=lambda item: item.path.parent.name not in FIRST)


def pytest_collection_finish() -> None:
    """Exclude all modules and tests from later garbage collections: `gc.collect()` in a test took 0.2 seconds.

    Hypothesis is imported before, because it searches for referrers when it is imported.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FileScheduling | None:
    if config.getoption("dist") != "loadfile":
        return None
    from support.side_by_side import FileScheduling

    return FileScheduling(config, log, TOGETHER)


TESTS_OF_WATCHDOG = ("test_beginner_mistakes.py", "test_watchdog.py")


@pytest.fixture(autouse=True, scope="module")
def _no_warnings_of_the_watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drop the warning that a handler blocks the event loop: without a free processor any handler can get it.

    Many tests compare the whole log. The files in `TESTS_OF_WATCHDOG` test the warning.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return record.module != "watchdog" or request.path.name in TESTS_OF_WATCHDOG

    logger = logging.getLogger("pywsapp")
    logger.addFilter(is_other)
    yield
    logger.removeFilter(is_other)


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param
