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
from support.services import Redis, redis_server

sys.path.insert(0, str(Path(__file__).parent.parent))
import hatch_build

if TYPE_CHECKING:
    from support.side_by_side import FileScheduling

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]

#: Files that run on one build and on one Python only: tests of documents and tools, tests that build both builds
#: themselves, and tests of brokers, load balancers and supervisors, which need other programs.
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
    "test_backoff.py",
    "test_benchmarks.py",
    "test_broker_frames.py",
    "test_budget_table.py",
    "test_check_broker.py",
    "test_check_codec.py",
    "test_check_middleware.py",
    "test_cli.py",
    "test_codecs.py",
    "test_description.py",
    "test_django_sessions.py",
    "test_extension_entry_points.py",
    "test_extras.py",
    "test_client_keys.py",
    "test_compiled.py",
    "test_connect_sync.py",
    "test_fault_log.py",
    "test_fault_network.py",
    "test_fault_proxy.py",
    "test_fault_record.py",
    "test_flask_sessions.py",
    "test_faults.py",
    "test_faulty_proxy.py",
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
    "test_oneofs.py",
    "test_own_messages_of_brokers.py",
    "test_php_format.py",
    "test_php_sessions.py",
    "test_procedures.py",
    "test_packaging.py",
    "test_proxy_urls.py",
    "test_publishing.py",
    "test_rabbitmq.py",
    "test_ratchet_cases.py",
    "test_ratchet_docs.py",
    "test_reauthorize.py",
    "test_reconnecting.py",
    "test_redirects.py",
    "test_refusal.py",
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
    "test_sync_test_client.py",
    "test_test_client.py",
    "test_server_workers.py",
    "test_sizing.py",
    "test_soak.py",
    "test_soak_numbers.py",
    "test_starlette_sessions.py",
    "test_supervisor.py",
    "test_tickets.py",
    "test_tls_handshake.py",
    "test_type_checkers.py",
    "test_typed_inbox.py",
    "test_tls_transport.py",
    "test_tunnel.py",
    "test_token_bucket.py",
    "test_two_nodes.py",
    "test_user_limit.py",
    "test_virtual_clock.py",
    "test_topic_rules.py",
    "test_uvicorn_protocol.py",
    "test_uvicorn_takeover.py",
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
#: A fixture whose tests run on one build and on one Python only.
ONCE_FIXTURE = "browser"

#: Directories whose tests run on one build only, because what they test is not compiled, and their files that run on
#: both builds. Compiled modules are those with a .pxd; tests/test_layout.py finds tests of these that are missing here.
ONE_BUILD: dict[str, set[str]] = {
    "app": {"test_app_serving.py", "test_app_stats.py", "test_route_stats.py"},
    "asgi": {"test_asgi_frames.py", "test_asgi_transport.py", "test_asgi_websockets.py"},
    "auth": {"test_expiry.py", "test_first_message.py", "test_first_message_limits.py"},
    "brokers": {"test_outcomes.py", "test_relay.py"},
    "browser": set(),
    "build": set(),
    "client": {"test_connect.py", "test_hostile_server.py", "test_inbox.py", "test_run_client.py"},
    "cli": {"test_metrics_text.py"},
    "clients": set(),
    "demo": set(),
    "deploy": set(),
    "docs": {"test_examples.py"},
    "limits": set(),
    "middleware": {"test_base.py", "test_rate_limit.py", "test_rate_limit_control_frames.py"},
    "process": {"test_stats_messages.py"},
    "protocols": set(),
    "ratchet": {"test_ratchet_io_connection.py", "test_ratchet_message_buffer.py", "test_ratchet_ws_server.py"},
    "routing": set(),
    "server": {"test_runtime.py", "test_server.py", "test_tls_buffer.py", "test_watchdog.py"},
    "sessions": set(),
    "testing": set(),
    "tools": {"test_conformance.py", "test_fuzz_targets.py"},
    "topics": {
        "test_async_on_unsubscribe.py",
        "test_broadcast_tasks.py",
        "test_may.py",
        "test_on_subscribe.py",
        "test_on_unsubscribe.py",
        "test_subscribing.py",
        "test_topic.py",
        "test_topic_coroutines.py",
        "test_topic_threads.py",
        "test_users.py",
    },
    "transports": {"test_tls_lost.py"},
    "webhooks": set(),
}
#: Files of other directories that run on one build only.
ONE_BUILD_FILES = {
    "test_addresses.py",
    "test_client_handshake.py",
    "test_close_codes.py",
    "test_constant_time.py",
    "test_deflate.py",
    "test_deflate_negotiation.py",
    "test_extensions.py",
    "test_forwarded.py",
    "test_handshake.py",
    "test_http.py",
    "test_http_head_buffer.py",
    "test_http_not_http.py",
    "test_http_response.py",
    "test_nested_data.py",
    "test_options.py",
    "test_proxy_protocol.py",
    "test_publisher.py",
    "test_request.py",
    "test_response.py",
}

#: Files whose tests run after all others, and why. Both parts run two files at a time.
ALONE = {
    "test_conformance.py": "it uses both processors itself",
    "test_faults.py": "it uses both processors itself",
    "test_soak.py": "its clients and servers are nine processes",
}
#: Directories whose files take the longest. They are tested first, so that both processes end at about the same time.
FIRST = ("asgi", "process", "brokers", "demo", "deploy", "tools")
#: Files that one process runs, and why: they share a fixture which is slow to start, or take as long as test_soak.py.
TOGETHER = {
    "test_conformance.py": "beside the soak run",
    "test_faults.py": "beside the soak run",
    "test_asyncapi_parser.py": "packages of npm",
    "test_browser_client.py": "packages of npm",
    "test_interleave.py": "wsload",
    "test_hostile_messages.py": "rabbit",
    "test_own_messages_of_brokers.py": "rabbit",
    "test_publishing.py": "rabbit",
    "test_rabbitmq.py": "rabbit",
    "test_webhooks_of_brokers.py": "rabbit",
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
    # These imports follow the check above, because outdated extension modules can fail to import.
    from pywsapp import App  # noqa: F401 - loads all modules, which are then counted
    from pywsapp._compiled import compiled, describe

    return f"pywsapp: {describe()}, {len(compiled())} extension modules"


def is_for_one_build(path: Path) -> bool:
    """Return whether the tests of a file run on one build only."""
    both = ONE_BUILD.get(path.parent.name)
    return path.name in ONE_BUILD_FILES or (both is not None and path.name not in both)


def is_in_part(path: Path, config: pytest.Config) -> bool:
    """Return whether the tests of a file belong to the part that `--part` selects."""
    part = config.getoption("part")
    return part is None or (path.name in ALONE) == (part == "alone")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import files without a selected test; a file in the command line is imported anyway."""
    if not collection_path.name.startswith("test_") or collection_path.suffix != ".py":
        return None
    both_builds = config.getoption("markexpr") == "not one_build"
    is_left_out = both_builds and (collection_path.name in ONCE or is_for_one_build(collection_path))
    return True if is_left_out or not is_in_part(collection_path, config) else None


@pytest.hookimpl(tryfirst=True)  # -m selects by marks after this
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = [item for item in items if not is_in_part(item.path, config)]
    if others:
        items[:] = [item for item in items if is_in_part(item.path, config)]
        config.hook.pytest_deselected(items=others)
    for item in items:
        if item.path.name in ONCE or ONCE_FIXTURE in getattr(item, "fixturenames", ()):
            item.add_marker("once")
        if item.get_closest_marker("once") is not None or is_for_one_build(item.path):
            item.add_marker("one_build")
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


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """A Redis for the tests of one file."""
    with redis_server() as server:
        yield server


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param
