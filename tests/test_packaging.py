"""What is published: built, looked into, installed into an empty environment and used there."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import pywsapp

ROOT = Path(__file__).parent.parent
VERSION = pywsapp.__version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def run(*argv: str | Path, cwd: Path) -> str:
    done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target, cwd=source)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a packager makes it: from nothing but the sdist."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    return build("wheel", unpacked / f"pywsapp-{VERSION}", tmp_path_factory.mktemp("wheel"))


def names_in_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.removeprefix(f"pywsapp-{VERSION}/") for name in archive.getnames()}


def test_sdist_has_what_a_packager_needs(sdist: Path) -> None:
    names = names_in_sdist(sdist)
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "src/pywsapp/py.typed"} <= names
    assert {"tests/conftest.py", "tests/test_packaging.py", "conformance/expected.json"} <= names
    assert {name.partition("/")[0] for name in names} >= {"docs", "examples"}


def test_sdist_has_no_leftovers(sdist: Path) -> None:
    leftovers = (".pyc", ".log", ".so", ".stamp")
    hidden = [name for name in names_in_sdist(sdist) if name.startswith(".") and name != ".gitignore"]
    assert hidden == []
    assert [name for name in names_in_sdist(sdist) if "__pycache__" in name or name.endswith(leftovers)] == []


def test_wheel_has_exactly_the_package(wheel: Path) -> None:
    package = ROOT / "src" / "pywsapp"
    expected = {
        f"pywsapp/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = f"pywsapp-{VERSION}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names == expected | {
        f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    assert "pywsapp/py.typed" in names
    assert any(name.startswith("pywsapp/demo/") and name.endswith(".html") for name in names)
    assert {Path(name).suffix for name in expected} <= {".py", ".html", ".typed"}


def test_wheel_needs_no_compiler(wheel: Path) -> None:
    assert wheel.name == f"pywsapp-{VERSION}-py3-none-any.whl"


def test_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    assert run(scripts / "python", "-I", "-c", "import pywsapp; print(pywsapp.__file__)", cwd=tmp_path).startswith(
        str(tmp_path)
    )
    assert VERSION in run(scripts / "python", "-I", "-m", "pywsapp", "--version", cwd=tmp_path)
    assert VERSION in run(scripts / "pywsapp", "--version", cwd=tmp_path)
