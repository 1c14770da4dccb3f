"""The files of a new project; `@NAME@`, `@MODULE@` and `@VERSION@` are replaced."""

from __future__ import annotations

_README = """\
# @NAME@

A real-time application with [pywsapp](https://pypi.org/project/pywsapp/).

## Develop

```sh
python3 -m venv .venv
. .venv/bin/activate
python -m pip install -e '.[test]'

# Run it on http://localhost:8080. In two other terminals connect to the room: a message of one appears in both.
pywsapp run @MODULE@.app --reload
pywsapp connect localhost:8080/room

# Before a commit: run the tests, and look for unsafe settings.
python -m pytest
pywsapp check @MODULE@.app
```

| file | content |
|---|---|
| `@MODULE@/room.py` | the component: what happens with a connection and its messages |
| `@MODULE@/app.py` | the routes and settings |
| `tests/test_room.py` | tests in memory, without a port |
| `deploy/@NAME@.service` | a unit for systemd |
| `Dockerfile` | an image whose process is not root |

## Deploy

Settings are environment variables, such as `PYWSAPP_HTTP_HOST`; `pywsapp run --help` lists them.

With Docker:

```sh
docker build -t @NAME@ .
docker run -p 8080:8080 -e PYWSAPP_HTTP_HOST=localhost @NAME@
```

`docker stop` ends the process with SIGTERM: it closes all connections with code 1012, after which clients come back.

With systemd: install the project into `/srv/@NAME@/.venv`, write settings into `/etc/@NAME@.env`, and copy
`deploy/@NAME@.service` to `/etc/systemd/system`.
"""

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "@NAME@"
version = "0.1.0"
description = "A real-time application."
requires-python = ">=3.10"
dependencies = ["pywsapp[redis,uvloop]>=@VERSION@"]

[project.optional-dependencies]
test = ["pytest>=8"]

[tool.hatch.build.targets.wheel]
packages = ["@MODULE@"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
"""

_ROOM = '''\
"""The component: each message goes to everyone in the room."""

from pywsapp import Connection, MessageComponent, Topic


class Room(MessageComponent):
    """One object serves all connections."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic

    async def on_open(self, conn: Connection) -> None:
        await self.topic.add(conn)  # from here on it gets what other processes broadcast

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        self.topic.broadcast(message)
'''

_APP = '''\
"""The routes and settings. Run it with `pywsapp run @MODULE@.app`."""

from pywsapp import App, RateLimit
from pywsapp.auth import public

from @MODULE@.room import Room


def make_app() -> App:
    app = App()
    room = RateLimit(Room(app.topic("room")), messages_per_second=10)
    # public lets everyone in: write a function that returns the user of a request.
    app.route("/room", room, authenticate=public)
    app.health()
    return app


app = make_app()
'''

_TEST = '''\
"""Tests in memory: no port, no waiting for a time."""

from pywsapp.testing import SyncTestClient

from @MODULE@.app import make_app


def test_a_message_goes_to_everyone() -> None:
    with (
        SyncTestClient(make_app()) as client,
        client.connect("/room") as ana,
        client.connect("/room") as ben,
    ):
        ana.send("hello")
        assert ana.receive() == "hello"
        assert ben.receive() == "hello"


def test_health() -> None:
    with SyncTestClient(make_app()) as client:
        assert client.get("/health").status == 200
'''

_DOCKERFILE = """\
FROM python:3.13-slim AS build
# The environment has no pip: only this stage needs it.
RUN python -m venv --without-pip /venv
WORKDIR /build
COPY . .
RUN pip --python /venv/bin/python install --no-cache-dir .

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app
COPY --from=build /venv /venv
USER 10001
# Connections end within 8 seconds after SIGTERM, because `docker stop` kills the process after 10.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYWSAPP_ADDRESS=0.0.0.0 PYWSAPP_PORT=8080 PYWSAPP_DRAIN_TIMEOUT=8
EXPOSE 8080
# A check must be cheap, because it times out on a busy machine otherwise: urllib takes three times as long.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["python", "-ISc", \\
    "from socket import *; s = create_connection(('127.0.0.1', 8080), 4); \\
    s.send(b'GET /health HTTP/1.0\\\\r\\\\n\\\\r\\\\n'); assert b' 200 ' in s.recv(99)"]
# Without a shell in between, so that SIGTERM reaches the server.
CMD ["pywsapp", "run", "@MODULE@.app"]
"""

_UNIT = """\
# /etc/systemd/system/@NAME@.service
[Unit]
Description=@NAME@
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
WatchdogSec=30
DynamicUser=yes
WorkingDirectory=/srv/@NAME@
EnvironmentFile=-/etc/@NAME@.env
ExecStart=/srv/@NAME@/.venv/bin/pywsapp run @MODULE@.app --workers auto
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
TimeoutStopSec=60
Restart=on-failure
RestartSec=3
LimitNOFILE=100000
CapabilityBoundingSet=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateTmp=yes
PrivateDevices=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

_WORKFLOW = """\
name: test
on:
  push:
    branches: [main]
  pull_request:
permissions:
  contents: read
jobs:
  test:
    runs-on: ubuntu-latest
    timeout-minutes: 10
    steps:
      - uses: actions/checkout@v4
        with:
          persist-credentials: false
      - uses: actions/setup-python@v5
        with:
          python-version: "3.13"
      - run: python -m pip install -e '.[test]'
      - run: python -m pytest
      - run: pywsapp check @MODULE@.app --fail-on-warning
"""

_IGNORED = """\
.venv/
__pycache__/
*.egg-info/
dist/
.pytest_cache/
*.env
"""

#: The content of each file, by its path.
FILES = {
    "README.md": _README,
    "pyproject.toml": _PYPROJECT,
    "@MODULE@/__init__.py": '"""@NAME@."""\n',
    "@MODULE@/app.py": _APP,
    "@MODULE@/room.py": _ROOM,
    "tests/test_room.py": _TEST,
    "Dockerfile": _DOCKERFILE,
    ".dockerignore": f"{_IGNORED}.git/\n",
    ".gitignore": _IGNORED,
    "deploy/@NAME@.service": _UNIT,
    ".github/workflows/test.yml": _WORKFLOW,
}
