"""The RabbitMQ of all tests, which share one node because it needs some seconds to start."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support.services import Nats, Rabbit, Redis, free_port, nats_server, rabbitmq_server

from pywsapp.brokers import relay

#: Files with brokers that are servers. Under trio, their clients run in a thread on asyncio's own event loop, so uvloop
#: and trio reach all event loops; a third run would only take longer.
WITHOUT_ASYNCIO = {
    "test_hostile_messages.py",
    "test_nats.py",
    "test_own_messages_of_brokers.py",
    "test_publishing.py",
    "test_rabbitmq.py",
    "test_redis.py",
    "test_redis_faults.py",
    "test_redis_history.py",
}
BROKERS_MD = Path(__file__).parents[2] / "docs" / "reference" / "brokers.md"


def rights() -> str:
    """Return the pattern that docs/reference/brokers.md has for configure, write and read."""
    configure, write, read = re.findall(r"'(\^\(pywsapp.*?)'", BROKERS_MD.read_text())
    assert configure == write == read
    return str(read)


@pytest.hookimpl(tryfirst=True)  # the other hooks then find the mark in place of the fixture's parameters
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of `WITHOUT_ASYNCIO` on uvloop and trio, unless a test names its event loops itself."""
    names = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if (
        metafunc.definition.path.name in WITHOUT_ASYNCIO
        and "anyio_backend" in metafunc.fixturenames
        and "anyio_backend" not in names
    ):
        loops = [("asyncio", {"use_uvloop": True}), ("trio", {})]
        metafunc.definition.add_marker(pytest.mark.parametrize("anyio_backend", loops, ids=["uvloop", "trio"]))


@pytest.fixture(scope="session")
def rabbit_tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The port for TLS, and the directory with the certificate and its authority."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(directory / "authority.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    return free_port(), directory


@pytest.fixture(scope="session")
def rabbit(rabbit_tls: tuple[int, Path]) -> Iterator[Rabbit]:
    """A node with TLS, and with the user `pywsapp`, who has the documented rights."""
    port, directory = rabbit_tls
    configuration = f"listeners.ssl.1 = 127.0.0.1:{port}\n" + "".join(
        f"ssl_options.{name} = {directory}/{file}.pem\n"
        for name, file in [("cacertfile", "authority"), ("certfile", "server"), ("keyfile", "server")]
    )
    with rabbitmq_server(configuration, pywsapp=("secret", rights())) as server:
        yield server


@pytest.fixture(scope="module", params=["redis", "rabbitmq", "nats"])
def service(request: pytest.FixtureRequest) -> Iterator[Redis | Rabbit | Nats]:
    """Each of the brokers that are servers, with an attribute `url`."""
    if request.param == "nats":
        with nats_server() as nats:
            yield nats
    else:
        yield request.getfixturevalue("redis" if request.param == "redis" else "rabbit")


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let relays try to connect twice a second, also after an outage of some seconds."""
    monkeypatch.setattr(relay, "LONGEST_PAUSE_SECONDS", 0.5)
