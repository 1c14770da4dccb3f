"""A description of the machine, and the processor time of processes."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import subprocess
from pathlib import Path

FILE_LIMIT = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")


def process_tree(pid: int) -> list[int]:
    """Return the IDs of a process and of its descendants that are in /proc now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    tree = [pid]
    for member in tree:
        tree += children.get(member, [])
    return tree


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time of some processes in seconds; processes that ended count as 0."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def busy_seconds() -> float:
    """Return the user and system time of the whole machine in seconds, without interrupts."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / _TICKS


def children_seconds() -> float:
    """Return the processor time of the ended children of this program in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def pinned(cpu: int | None, command: list[str]) -> list[str]:
    """Return the command that runs another one on one processor only; on all processors if `cpu` is None."""
    return ["taskset", "-c", str(cpu), *command] if cpu is not None and shutil.which("taskset") else command


def raise_file_limit() -> int:
    """Raise the limit of open files as far as possible, for this program and its children; return the new limit."""
    for limit in (FILE_LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def facts() -> dict[str, str]:
    """Return a description of the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    release: dict[str, str] = {}
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
    return {
        "cpu": _cpu_model(),
        "processors": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": release.get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "C compiler": _first_line("cc", "--version"),
    }


def commit(root: Path) -> str:
    """Return the checked-out commit, with a + if the sources were changed; "unknown" outside of git."""
    name = _first_line("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = _first_line("git", "-C", str(root), "status", "--porcelain", "--", "src", "pyproject.toml")
    return (name + ("+" if changed else "")) or "unknown"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(*command: str) -> str:
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.partition("\n")[0].strip()
    return ""
