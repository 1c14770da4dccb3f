"""The comparison of two checkouts, with this checkout on both sides."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.wsload import Wsload

pytest.importorskip("fcntl", reason="the benchmarks run on Linux only")

ROOT = Path(__file__).parent.parent.parent


def interleave(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = ROOT / "benchmarks" / "interleave.py"
    return subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True)


@pytest.mark.usefixtures("wsload")  # skips without a compiler
def test_one_pair_of_runs() -> None:
    options = ["--pairs", "1", "--seconds", "0.5", "--scenarios", "echo16", "--variant", "pure"]
    done = interleave(ROOT, ROOT, *options)
    assert done.returncode == 0, done.stderr
    name, ratio, *spread = done.stdout.split()
    assert name == "echo16"
    assert 0.1 < float(ratio) < 10
    assert spread[-2:] == ["1", "pairs)"]


def test_a_checkout_without_extension_modules_is_refused(tmp_path: Path) -> None:
    done = interleave(tmp_path, ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith(f"interleave.py: {tmp_path} has no extension modules: run `make compile` there")


def test_old_extension_modules_are_refused(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name, modified in (("frames.so", 1), ("frames.py", 2)):
        (tmp_path / "src" / name).touch()
        os.utime(tmp_path / "src" / name, (modified, modified))
    done = interleave(tmp_path, tmp_path)
    assert done.returncode == 2
    assert "frames.py is newer than its extension module" in done.stderr


def test_a_server_that_does_not_start_is_reported(wsload: Wsload, tmp_path: Path) -> None:
    done = interleave(tmp_path, tmp_path, "--scenarios", "echo16", "--variant", "pure")
    assert done.returncode == 1
    assert done.stdout.startswith("echo16           failed: the server ended with 2")


def test_unknown_scenarios_are_refused() -> None:
    done = interleave(ROOT, ROOT, "--scenarios", "echo17")
    assert done.returncode == 2
    assert "there is no scenario 'echo17'" in done.stderr


def test_memory_is_not_measured_over_tls() -> None:
    done = interleave(ROOT, ROOT, "--scenarios", "idle2000", "--variant", "pure", "--tls")
    assert done.returncode == 2
    assert "idle2000 cannot be measured over TLS" in done.stderr
