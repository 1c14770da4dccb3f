"""The files for Docker and Kubernetes: what they run is run here, without containers, and their parts fit together.

The programs of the containers are processes on loopback: the same commands and environments, with other addresses.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from support.balancers import program_of, wait_until_listening
from support.program import Program
from support.projects import new_project
from support.services import find_program, free_port, redis_server
from support.serving import GUARD

from pywsapp import ConnectionClosed, Options, SyncConnection, connect_sync
from pywsapp._metric_table import METRICS
from pywsapp.cli.project_files import FILES

pytestmark = pytest.mark.once
DEPLOY = Path(__file__).parent.parent.parent / "docs" / "deploy"
#: What a shutdown takes beside its two options, without shutdown hooks: docs/howto/shut-down-cleanly.md.
SHUTDOWN_SECONDS = Options().on_close_timeout + 7


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, with their arguments."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = (line.partition(" ") for line in text.splitlines() if line)
    return [(name, arguments.strip()) for name, _, arguments in lines]


def last(name: str) -> str:
    """Return the arguments of the last instruction with a name."""
    return [arguments for instruction, arguments in instructions() if instruction == name][-1]


def image_environment() -> dict[str, str]:
    """Return the environment variables of the image."""
    return dict(pair.split("=", 1) for pair in last("ENV").split())


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    """A project that each user can read."""
    with tempfile.TemporaryDirectory(prefix="pywsapp-") as folder:
        os.chmod(folder, 0o755)
        yield new_project(Path(folder), "chat")


def other_user(number: int) -> int | None:
    """Return the user if the tests may run Python as that user; otherwise None."""
    try:
        subprocess.run([sys.executable, "-c", ""], user=number, group=number, check=True, capture_output=True)
    except (PermissionError, subprocess.CalledProcessError):
        return None
    return number


# -- Dockerfile ------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_file() -> None:
    page = (DEPLOY.parent / "howto" / "deploy-with-docker.md").read_text()
    assert f"```dockerfile\n{(DEPLOY / 'Dockerfile').read_text()}```\n" in page


@pytest.mark.parametrize(
    ("file", "made"), [("Dockerfile", "Dockerfile"), ("chat.service", "deploy/@NAME@.service")], ids=["image", "unit"]
)
def test_the_documented_file_is_that_of_a_new_project(file: str, made: str) -> None:
    content = FILES[made].replace("@NAME@", "chat").replace("@MODULE@", "chat")
    assert (DEPLOY / file).read_text() == content


def test_the_image_is_built_in_stages_and_its_process_is_not_root() -> None:
    names = [name for name, _ in instructions()]
    assert names == ["FROM", "RUN", "WORKDIR", "COPY", "RUN", "FROM", "RUN", *names[7:]]
    assert set(names[7:]) == {"COPY", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "CMD"}
    assert last("COPY") == "--from=build /venv /venv"
    assert f"--uid {last('USER')} " in last("RUN")
    assert int(last("USER")) > 0
    assert image_environment()["PYWSAPP_PORT"] == last("EXPOSE")
    # `docker stop` waits for 10 seconds.
    assert float(image_environment()["PYWSAPP_DRAIN_TIMEOUT"]) < 10


def test_the_process_of_the_image_is_healthy_and_ends_at_sigterm(project: Path) -> None:
    environment = {**image_environment(), "PYWSAPP_PORT": "0"}
    del environment["PATH"]
    program, *arguments = json.loads(last("CMD"))
    assert program == "pywsapp"
    user = other_user(int(last("USER")))
    with Program(["-m", program, *arguments], cwd=project, user=user, environment=environment) as server:
        url = f"ws://localhost:{server.port}/room"
        python, *check = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
        assert python == "python"
        address = f"('127.0.0.1', {last('EXPOSE')})"
        assert address in check[1]
        check[1] = check[1].replace(address, f"('127.0.0.1', {server.port})")
        subprocess.run([sys.executable, *check], check=True, timeout=GUARD, user=user, group=user)
        with connect_sync(url) as client:
            client.send("hello")
            assert client.receive() == "hello"
            server.send(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                client.receive()
            assert closed.value.code == 1012
        assert server.end(within=10) == 0
        failed = subprocess.run([sys.executable, *check], stderr=subprocess.DEVNULL, timeout=GUARD)
        assert failed.returncode == 1


# -- compose.yaml ----------------------------------------------------------------------------------------------------


class NameServer:
    """A DNS server with the addresses of one name, as that of Docker has them for a service.

    Attributes:
        addresses: the addresses of the name.
    """

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", self._socket.getsockname())  # ends the thread
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            end = query.index(b"\0", 12) + 5  # after the name, the type and the class
            records = self.addresses if query[end - 3] == 1 else ()  # type A
            header = query[:2] + b"\x81\x80\0\1" + len(records).to_bytes(2, "big") + b"\0\0\0\0"
            answers = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(record) for record in records)
            self._socket.sendto(header + query[12:end] + answers, client)


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = documents("compose.yaml")[0]["services"]
    return found


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def test_services_of_compose_fit_together() -> None:
    compose = documents("compose.yaml")[0]
    chat, redis, haproxy = (services()[name] for name in ("chat", "redis", "haproxy"))
    environment = chat["environment"]
    assert environment["PYWSAPP_BROKER"] == "redis://redis"
    assert redis["healthcheck"]["test"][0] == "CMD"
    assert chat["depends_on"]["redis"]["condition"] == "service_healthy"
    address = haproxy["networks"]["inside"]["ipv4_address"]
    assert environment["PYWSAPP_TRUSTED_PROXIES"] == address
    network = compose["networks"]["inside"]["ipam"]["config"][0]
    assert address.rpartition(".")[0] == network["subnet"].rpartition(".")[0]
    file = haproxy["volumes"][0].split(":")[0]
    assert (DEPLOY / file).exists()
    drain = float(environment["PYWSAPP_DRAIN_DELAY"]) + float(environment["PYWSAPP_DRAIN_TIMEOUT"])
    assert seconds(chat["stop_grace_period"]) > drain + SHUTDOWN_SECONDS


def haproxy_config(name_server: NameServer, port: int, server_port: int) -> str:
    """Return the documented configuration with the addresses of the test."""
    text = (DEPLOY / "haproxy-compose.cfg").read_text()
    changes = {
        "127.0.0.11:53": f"127.0.0.1:{name_server.port}",
        "bind :8080": f"bind 127.0.0.1:{port}",
        " chat:8080 ": f" chat:{server_port} ",
        "maxconn 20000": "maxconn 400",
    }
    for documented, real in changes.items():
        assert text.count(documented) == 1
        text = text.replace(documented, real)
    return text


def start_replica(project: Path, address: str, port: int, redis: str) -> Program:
    environment: Mapping[str, str] = services()["chat"]["environment"]
    changes = {
        "PYWSAPP_BROKER": environment["PYWSAPP_BROKER"].replace("redis://redis", redis),
        "PYWSAPP_BROKER_KEY": "a secret of the test",
        "PYWSAPP_TRUSTED_PROXIES": "127.0.0.1",
        "PYWSAPP_ADDRESS": address,
        "PYWSAPP_PORT": str(port),
    }
    return Program(["-m", "pywsapp", "run", "chat.app"], cwd=project, environment={**environment, **changes})


def next_message_or_code(client: SyncConnection[str | bytes]) -> object:
    """Return the next message, or the code with which the server has closed the connection."""
    try:
        return client.receive()
    except ConnectionClosed as closed:
        return closed.code


def test_replicas_of_compose_share_topics_and_one_shuts_down(project: Path, tmp_path: Path) -> None:
    haproxy = find_program("haproxy", "haproxy")
    addresses = ("127.0.0.11", "127.0.0.12")
    port, server_port = free_port(), free_port()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(*services()["redis"]["command"][1:]))
        replicas = [
            stack.enter_context(start_replica(project, address, server_port, redis.url)) for address in addresses
        ]
        for replica in replicas:
            assert replica.port == server_port
        name_server = stack.enter_context(NameServer(*addresses))
        config = tmp_path / "haproxy.cfg"
        config.write_text(haproxy_config(name_server, port, server_port))
        balancer = stack.enter_context(program_of(haproxy, "-db", "-f", str(config)))
        wait_until_listening(port, balancer)
        for number in (1, 2):  # HAProxy has resolved the name and checked both servers
            balancer.until(f"Server chat/chat-{number} .*is UP")
        url = f"ws://localhost:{port}/room"
        first = stack.enter_context(connect_sync(url))
        first.send("alone")
        assert first.receive() == "alone"  # so it subscribes, also to what the other replica broadcasts
        second = stack.enter_context(connect_sync(url))
        second.send("hello")
        assert [client.receive() for client in (first, second)] == ["hello", "hello"]

        position = len(balancer.output)
        replicas[0].send(signal.SIGTERM)
        balancer.until("Server chat/chat-[12] is DOWN", position)
        third = stack.enter_context(connect_sync(url))
        third.send("new")
        assert third.receive() == "new"
        assert replicas[0].end(within=seconds(services()["chat"]["stop_grace_period"])) == 0
        third.send("newer")
        assert third.receive() == "newer"
        assert [client.receive() for client in (first, second)] == ["new", "new"]
        assert {next_message_or_code(client) for client in (first, second)} == {"newer", 1012}


# -- kubernetes.yaml -------------------------------------------------------------------------------------------------


def by_kind() -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in documents("kubernetes.yaml")}


def test_objects_of_kubernetes_fit_together() -> None:
    objects = by_kind()
    assert list(objects) == [
        "Deployment",
        "Service",
        "Ingress",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
    ]
    deployment = objects["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    (container,) = deployment["template"]["spec"]["containers"]
    ports = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    assert ports == [port["name"] for port in container["ports"]]
    backend = objects["Ingress"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    service = objects["Service"]
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"]["name"] == service["spec"]["ports"][0]["name"]
    scaled = objects["HorizontalPodAutoscaler"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
    assert "replicas" not in deployment
    assert scaled["metrics"][0]["pods"]["metric"]["name"] in {info.name for info in METRICS}


def test_the_pod_of_kubernetes_runs_the_image() -> None:
    pod = by_kind()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsUser"] == int(last("USER"))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["http"] == int(last("EXPOSE"))
    paths = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: (probe["path"], probe["port"]) for name, probe in paths.items()} == {
        "startup": ("/health/ready", "http"),
        "readiness": ("/health/ready", "http"),
        "liveness": ("/health/live", "http"),
    }
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    command, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert shutil.which(command)
    shutdown = float(pause) + float(values["PYWSAPP_DRAIN_TIMEOUT"]) + SHUTDOWN_SECONDS
    assert pod["terminationGracePeriodSeconds"] > shutdown
