"""What the benchmarks run in: made on first use, kept in a cache, brought up to date on every other.

Two virtual environments, for the peers and for pywsapp as this checkout has it, and a third for the peers of
cluster.py; the npm package ws where there is npm; the load generator, compiled; a certificate for TLS.

Environment variables:
    BENCHMARK_ENV   where it lives (default: pywsapp-bench in $XDG_CACHE_HOME or ~/.cache)
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
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REQUIREMENTS = HERE / "peers" / "requirements.txt"
CLUSTER_REQUIREMENTS = HERE / "peers" / "cluster.txt"
NODE_PACKAGES = ("ws@8.23.0", "bufferutil@4.1.0")
OLDEST_PYTHON = (3, 10)


class Unable(Exception):
    """Something that cannot be done without is missing or failed; the text says what to do."""


@dataclass
class Environment:
    """Where everything is.

    Args:
        peers: the Python of the peers.
        pywsapp: the Python that pywsapp is installed for.
        wsload: the load generator.
        node_modules: the folder that has the npm package ws, or None.
        tls: a certificate and its key, or None if the load generator cannot speak TLS.
        notes: what was left out and why, a line each.
    """

    peers: Path
    pywsapp: Path
    wsload: Path
    node_modules: Path | None = None
    tls: tuple[Path, Path] | None = None
    notes: list[str] = field(default_factory=list)


def ensure(python: str, *, cluster: bool = False) -> Environment:
    """Make what is missing of the environment, for servers that run on this Python.

    Args:
        python: it.
        cluster: whether the peers of cluster.py are needed, and not the others.

    Raises:
        Unable: it could not be made.
    """
    if sys.platform != "linux":
        raise Unable("the benchmarks need Linux: they read /proc, and the load generator is made for epoll")
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be making it right now
        maker = _Maker(cache, _version(python), python)
        return maker.make_cluster() if cluster else maker.make()


def wsload(python: str) -> Path:
    """Return the load generator; compile it if it is missing.

    Raises:
        Unable: it cannot be compiled.
    """
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    return _Maker(cache, _version(python), python).wsload()


def _cache() -> Path:
    given = os.environ.get("BENCHMARK_ENV")
    if given:
        return Path(given).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pywsapp-bench"


def _version(python: str) -> str:
    probe = "import sys, venv, ensurepip; print(sys.implementation.name, *sys.version_info[:3])"
    try:
        # From /, so that a pyenv shim does not follow the caller's .python-version.
        done = subprocess.run([python, "-c", probe], cwd="/", capture_output=True, text=True)
    except OSError as exc:
        raise Unable(f"{python} cannot be run: {exc.strerror}; name another with --python") from None
    if done.returncode != 0:
        raise Unable(f"{python} cannot make virtual environments; on Debian: apt-get install python3-venv")
    name, *numbers = done.stdout.split()
    if tuple(map(int, numbers)) < OLDEST_PYTHON:
        raise Unable(f"{python} is older than Python 3.10; name another with --python")
    return f"{name}-{'.'.join(numbers)}"


def digest(files: Iterable[Path]) -> str:
    """Give a name for what these files contain."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file}\0{file.stat().st_size}\0".encode())
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def sources() -> list[Path]:
    """List what an installation of pywsapp is made of."""
    package = [path for path in (ROOT / "src").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    built = (".so", ".pyd", ".pyc")
    return [path for path in package if path.suffix not in built] + [ROOT / "pyproject.toml", *ROOT.glob("*.py")]


class _Maker:
    """Makes the parts of an environment that are missing or out of date, with a log of every command."""

    def __init__(self, cache: Path, version: str, python: str) -> None:
        self.cache = cache
        self.folder = cache / version
        self.python = python
        self.log = cache / "install.log"
        self.notes: list[str] = []

    def make(self) -> Environment:
        self.folder.mkdir(exist_ok=True)
        wsload = self.wsload()
        peers = self._peers("peers", REQUIREMENTS)
        pywsapp = self._pywsapp()
        return Environment(peers, pywsapp, wsload, self._node(), self._tls(wsload, peers), self.notes)

    def make_cluster(self) -> Environment:
        self.folder.mkdir(exist_ok=True)
        peers = self._peers("cluster", CLUSTER_REQUIREMENTS)
        return Environment(peers, self._pywsapp(), self.wsload(), notes=self.notes)

    def _peers(self, name: str, requirements: Path) -> Path:
        python = self._venv(name)
        stamp = self.folder / name / "installed"
        wanted = digest([requirements])
        if _read(stamp) != wanted:
            self._say(f"installing the peers in {self.folder / name}")
            if not self._works(python, "-m", "pip", "install", "-q", "-r", requirements):
                self._one_by_one(python, requirements)
            stamp.write_text(wanted)
        return python

    def _one_by_one(self, python: Path, requirements: Path) -> None:
        """Install what can be: not every peer has a wheel for every Python."""
        for line in requirements.read_text().split():
            if not self._works(python, "-m", "pip", "install", "-q", "-c", requirements, line):
                self.notes.append(f"{line} cannot be installed here, see {self.log}; what needs it will fail")

    def _pywsapp(self) -> Path:
        python = self._venv("pywsapp")
        stamp = self.folder / "pywsapp" / "installed"
        wanted = digest([*sources(), REQUIREMENTS, CLUSTER_REQUIREMENTS])
        if _read(stamp) != wanted:
            self._say(f"installing pywsapp in {self.folder / 'pywsapp'}")
            stamp.unlink(missing_ok=True)
            self._call(python, "-m", "pip", "uninstall", "-q", "-y", "pywsapp")
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / "pywsapp"
                _copy_sources(copy)
                # The peers' requirements as constraints: all have the same uvloop then.
                what = f"{copy}[uvloop,trio,redis,rabbitmq,nats]"
                pins: list[str | Path] = ["-c", REQUIREMENTS, "-c", CLUSTER_REQUIREMENTS]
                self._call(python, "-m", "pip", "install", "-q", *pins, what)
            stamp.write_text(wanted)
        return python

    def _venv(self, name: str) -> Path:
        python = self.folder / name / "bin" / "python"
        # A Python that was upgraded or removed leaves an environment behind that cannot run.
        if not (python.exists() and self._works(python, "-m", "pip", "--version")):
            self._call(self.python, "-m", "venv", "--clear", self.folder / name)
            self._call(python, "-m", "pip", "install", "-q", "--upgrade", "pip")
        return python

    def _node(self) -> Path | None:
        folder = self.cache / "node"
        stamp = folder / "installed"
        if not (shutil.which("node") and shutil.which("npm")):
            self.notes.append("no node and npm here: ws-node is left out")
            return None
        if _read(stamp) != " ".join(NODE_PACKAGES):
            self._say(f"installing {NODE_PACKAGES[0]} in {folder}")
            folder.mkdir(exist_ok=True)
            if not self._works("npm", "install", "--silent", "--prefix", folder, *NODE_PACKAGES):
                self.notes.append(f"npm could not install ws, see {self.log}: ws-node is left out")
                return None
            stamp.write_text(" ".join(NODE_PACKAGES))
        return folder / "node_modules"

    def wsload(self) -> Path:
        source = HERE / "wsload.c"
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise Unable("no C compiler found; on Debian: apt-get install gcc libc6-dev zlib1g-dev libssl-dev")
        tls = self._has_header(compiler, "openssl/ssl.h")
        if not tls:
            self.notes.append("no OpenSSL headers: TLS is left out; on Debian: apt-get install libssl-dev")
        program = self.cache / f"wsload-{digest([source])}{'' if tls else '-no-tls'}"
        if not program.exists():
            if not self._has_header(compiler, "zlib.h"):
                raise Unable("zlib.h is missing; on Debian: apt-get install zlib1g-dev libssl-dev")
            self._say("compiling wsload.c")
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
        folder = self.cache / "tls"
        certificate, key = folder / "server.pem", folder / "server.key"
        folder.mkdir(exist_ok=True)
        # Made anew each time, so that it never runs out.
        if not self._works(peers, "-m", "trustme", "-q", "-d", folder, "-i", "localhost", "127.0.0.1"):
            self.notes.append(f"no certificate could be made, see {self.log}: TLS is left out")
            return None
        return certificate, key

    def _say(self, what: str) -> None:
        print(f"{what} (log: {self.log})", file=sys.stderr, flush=True)

    def _works(self, *command: str | Path) -> bool:
        # With PYWSAPP_PURE set, the installation would have no extension modules.
        variables = {name: value for name, value in os.environ.items() if name != "PYWSAPP_PURE"}
        with self.log.open("a") as out:
            out.write(f"$ {shlex.join(map(str, command))}\n")
            out.flush()
            # From /, so that nothing of the checkout is imported in place of what is installed.
            done = subprocess.run(command, cwd="/", env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        return done.returncode == 0

    def _call(self, *command: str | Path) -> None:
        if not self._works(*command):
            raise Unable(f"{shlex.join(map(str, command))} failed, see {self.log}")


def _copy_sources(target: Path) -> None:
    """Copy what an installation is made of, so that building leaves nothing behind in the checkout."""
    target.mkdir()
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, target)
    shutil.copytree(ROOT / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd"))


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
