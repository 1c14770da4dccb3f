"""The environment of the benchmarks: created in a cache at the first use, and updated at every further use.

It has virtual environments for the peers, for the peers of cluster.py, and for pywsapp from this checkout; the npm
package ws if npm is installed; the compiled load generator; and a certificate for TLS.

Environment variables:
    BENCHMARK_ENV   the directory (default: pywsapp-bench in $XDG_CACHE_HOME or ~/.cache)
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REQUIREMENTS = HERE / "peers" / "requirements.txt"
CLUSTER_REQUIREMENTS = HERE / "peers" / "cluster.txt"
NODE_PACKAGES = ("ws@8.23.0", "bufferutil@4.1.0")
#: The ASGI servers that run an App of pywsapp, what uvicorn uses, and the frameworks of sites that mount it.
ASGI_SERVERS = ("httptools", "websockets", "Hypercorn", "granian", "daphne", "fastapi", "litestar", "Django")
OLDEST_PYTHON = (3, 10)


class SetupError(Exception):
    """Something necessary is missing or failed; the message says how to fix it."""


@dataclass
class Environment:
    """The paths in the environment.

    Args:
        peers: the Python of the peers.
        pywsapp: the Python with pywsapp.
        wsload: the load generator.
        node_modules: the directory with the npm package ws; None without npm.
        tls: a certificate and its key; None if the load generator has no TLS.
        notes: for each missing part, one line with the reason.
    """

    peers: Path
    pywsapp: Path
    wsload: Path
    node_modules: Path | None = None
    tls: tuple[Path, Path] | None = None
    notes: list[str] = field(default_factory=list)


def ensure(python: str, *, cluster: bool = False) -> Environment:
    """Create the missing parts of the environment.

    Args:
        python: the Python that servers run on.
        cluster: whether to install the peers of cluster.py instead of the other peers.

    Raises:
        SetupError: a necessary part could not be created.
    """
    if sys.platform != "linux":
        raise SetupError("the benchmarks need Linux: they read /proc, and the load generator uses epoll")
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run can be creating it
        builder = _Builder(cache, _version(python), python)
        return builder.build_for_cluster() if cluster else builder.build()


def peers(python: str) -> Path:
    """Return the Python of the peers; create its environment if it is missing.

    Raises:
        SetupError: it cannot be created.
    """
    return _with_builder(python, _Builder.peers)


def cluster_peers(python: str) -> Path:
    """Return the Python of the peers of cluster.py; create its environment if it is missing.

    Raises:
        SetupError: it cannot be created.
    """
    return _with_builder(python, _Builder.cluster_peers)


def _with_builder(python: str, build: Callable[[_Builder], Path]) -> Path:
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build(_Builder(cache, _version(python), python))


def wsload(python: str) -> Path:
    """Return the load generator; compile it if it is missing.

    Raises:
        SetupError: it cannot be compiled.
    """
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    return _Builder(cache, _version(python), python).wsload()


def _cache() -> Path:
    given = os.environ.get("BENCHMARK_ENV")
    if given:
        return Path(given).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pywsapp-bench"


def _version(python: str) -> str:
    probe = "import sys, venv, ensurepip; print(sys.implementation.name, *sys.version_info[:3])"
    try:
        # In /, so that a pyenv shim does not follow a .python-version of the current directory.
        done = subprocess.run([python, "-c", probe], cwd="/", capture_output=True, text=True)
    except OSError as exc:
        raise SetupError(f"{python} does not start: {exc.strerror}; select another Python with --python") from None
    if done.returncode != 0:
        raise SetupError(f"{python} cannot create virtual environments; on Debian: apt-get install python3-venv")
    name, *numbers = done.stdout.split()
    if tuple(map(int, numbers)) < OLDEST_PYTHON:
        raise SetupError(f"{python} is older than Python 3.10; select another Python with --python")
    return f"{name}-{'.'.join(numbers)}"


def digest(files: Iterable[Path]) -> str:
    """Return a hash of the paths and contents of files."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file}\0{file.stat().st_size}\0".encode())
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def sources() -> list[Path]:
    """Return the files that an installation of pywsapp is built from."""
    package = [path for path in (ROOT / "src").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    built = (".so", ".pyd", ".pyc")
    return [path for path in package if path.suffix not in built] + [ROOT / "pyproject.toml", *ROOT.glob("*.py")]


class _Builder:
    """Creates the parts of an environment that are missing or out of date, and logs every command."""

    def __init__(self, cache: Path, version: str, python: str) -> None:
        self.cache = cache
        self.directory = cache / version
        self.python = python
        self.log = cache / "install.log"
        self.notes: list[str] = []

    def build(self) -> Environment:
        self.directory.mkdir(exist_ok=True)
        wsload = self.wsload()
        peers = self.peers()
        pywsapp = self._pywsapp()
        return Environment(peers, pywsapp, wsload, self._node(), self._tls(wsload, peers), self.notes)

    def build_for_cluster(self) -> Environment:
        return Environment(self.cluster_peers(), self._pywsapp(), self.wsload(), notes=self.notes)

    def peers(self) -> Path:
        self.directory.mkdir(exist_ok=True)
        return self._peers("peers", REQUIREMENTS)

    def cluster_peers(self) -> Path:
        self.directory.mkdir(exist_ok=True)
        return self._peers("cluster", CLUSTER_REQUIREMENTS)

    def _peers(self, name: str, requirements: Path) -> Path:
        python = self._venv(name)
        stamp = self.directory / name / "installed"
        wanted = digest([requirements])
        if _read(stamp) != wanted:
            self._print(f"installing the peers in {self.directory / name}")
            if not self._succeeds(python, "-m", "pip", "install", "-q", "-r", requirements):
                self._install_one_by_one(python, requirements)
            stamp.write_text(wanted)
        return python

    def _install_one_by_one(self, python: Path, requirements: Path) -> None:
        """Install the peers that can be installed: not every peer has a wheel for every Python."""
        for line in requirements.read_text().split():
            if not self._succeeds(python, "-m", "pip", "install", "-q", "-c", requirements, line):
                self.notes.append(f"{line} could not be installed, see {self.log}; its contestants will fail")

    def _pywsapp(self) -> Path:
        python = self._venv("pywsapp")
        stamp = self.directory / "pywsapp" / "installed"
        wanted = digest([*sources(), REQUIREMENTS, CLUSTER_REQUIREMENTS])
        if _read(stamp) != wanted:
            self._print(f"installing pywsapp in {self.directory / 'pywsapp'}")
            stamp.unlink(missing_ok=True)
            self._call(python, "-m", "pip", "uninstall", "-q", "-y", "pywsapp")
            with tempfile.TemporaryDirectory() as directory:
                copy = Path(directory) / "pywsapp"
                _copy_sources(copy)
                # The requirements of the peers are constraints, so that all servers have the same uvloop.
                requirement = f"{copy}[uvicorn,uvloop,trio,redis,rabbitmq,nats]"
                pins: list[str | Path] = ["-c", REQUIREMENTS, "-c", CLUSTER_REQUIREMENTS]
                self._call(python, "-m", "pip", "install", "-q", *pins, requirement)
                for server in ASGI_SERVERS:
                    if not self._succeeds(python, "-m", "pip", "install", "-q", *pins, server):
                        self.notes.append(f"{server} could not be installed, see {self.log}; an App on it will fail")
            stamp.write_text(wanted)
        return python

    def _venv(self, name: str) -> Path:
        python = self.directory / name / "bin" / "python"
        # If a Python was upgraded or removed, its environments do not work any more.
        if not (python.exists() and self._succeeds(python, "-m", "pip", "--version")):
            self._call(self.python, "-m", "venv", "--clear", self.directory / name)
            self._call(python, "-m", "pip", "install", "-q", "--upgrade", "pip")
        return python

    def _node(self) -> Path | None:
        directory = self.cache / "node"
        stamp = directory / "installed"
        if not (shutil.which("node") and shutil.which("npm")):
            self.notes.append("node and npm are not installed: ws-node is not measured")
            return None
        if _read(stamp) != " ".join(NODE_PACKAGES):
            self._print(f"installing {NODE_PACKAGES[0]} in {directory}")
            directory.mkdir(exist_ok=True)
            if not self._succeeds("npm", "install", "--silent", "--prefix", directory, *NODE_PACKAGES):
                self.notes.append(f"npm could not install ws, see {self.log}: ws-node is not measured")
                return None
            stamp.write_text(" ".join(NODE_PACKAGES))
        return directory / "node_modules"

    def wsload(self) -> Path:
        source = HERE / "wsload.c"
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise SetupError("no C compiler found; on Debian: apt-get install gcc libc6-dev zlib1g-dev libssl-dev")
        tls = self._has_header(compiler, "openssl/ssl.h")
        if not tls:
            self.notes.append("no OpenSSL headers: TLS is not measured; on Debian: apt-get install libssl-dev")
        program = self.cache / f"wsload-{digest([source])}{'' if tls else '-no-tls'}"
        if not program.exists():
            if not self._has_header(compiler, "zlib.h"):
                raise SetupError("zlib.h is missing; on Debian: apt-get install zlib1g-dev libssl-dev")
            self._print("compiling wsload.c")
            libraries = ["-lz", "-lssl", "-lcrypto"] if tls else ["-DNO_TLS", "-lz"]
            partial = program.with_suffix(".new")
            self._call(compiler, "-O2", "-o", partial, source, *libraries)
            partial.rename(program)
        return program

    def _has_header(self, compiler: str, header: str) -> bool:
        probe = subprocess.run([compiler, "-E", "-"], input=f"#include <{header}>\n".encode(), capture_output=True)
        return probe.returncode == 0

    def _tls(self, wsload: Path, peers: Path) -> tuple[Path, Path] | None:
        usage = subprocess.run([wsload, "--help"], capture_output=True, text=True).stdout
        if "--tls" not in usage or wsload.name.endswith("-no-tls"):
            return None
        directory = self.cache / "tls"
        certificate, key = directory / "server.pem", directory / "server.key"
        directory.mkdir(exist_ok=True)
        # A new certificate at each run cannot be expired.
        if not self._succeeds(peers, "-m", "trustme", "-q", "-d", directory, "-i", "localhost", "127.0.0.1"):
            self.notes.append(f"no certificate could be created, see {self.log}: TLS is not measured")
            return None
        return certificate, key

    def _print(self, what: str) -> None:
        print(f"{what} (log: {self.log})", file=sys.stderr, flush=True)

    def _succeeds(self, *command: str | Path) -> bool:
        # With PYWSAPP_PURE, the installation would have no extension modules.
        variables = {name: value for name, value in os.environ.items() if name != "PYWSAPP_PURE"}
        with self.log.open("a") as out:
            out.write(f"$ {shlex.join(map(str, command))}\n")
            out.flush()
            # In /, so that Python imports the installed packages and not those of the checkout.
            done = subprocess.run(command, cwd="/", env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        return done.returncode == 0

    def _call(self, *command: str | Path) -> None:
        if not self._succeeds(*command):
            raise SetupError(f"{shlex.join(map(str, command))} failed, see {self.log}")


def _copy_sources(target: Path) -> None:
    """Copy the sources of an installation, so that building it leaves no files in the checkout."""
    target.mkdir()
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, target)
    shutil.copytree(ROOT / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd"))


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
