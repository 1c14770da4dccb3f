"""The published files: the tests build them, check their contents and use them in an empty environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import hatch_build
import pytest

import pywsapp

ROOT = Path(__file__).parent.parent.parent
VERSION = pywsapp.__version__
PURE = f"pywsapp-{VERSION}-py3-none-any.whl"
EXTENSIONS = {f"{name}{hatch_build.SUFFIX}" for name in hatch_build.modules()}
NO_COMPILER = {"CC": "/bin/false"}
WARNING = "pywsapp is built without its extension modules: "
IN_PLACE = ("frames", "outbox", "prepared")
EXTENSIONS_IN_PLACE = {name for name in EXTENSIONS if Path(name).name.partition(".")[0] in IN_PLACE}
FOREIGN = ("pywsapp/app.so", f"pywsapp/app{hatch_build.SUFFIX}", "pywsapp/_protocol/frames.cp39-win_amd64.pyd")
SUITE = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_close_codes.py"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def call(*argv: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYWSAPP_PURE"} | variables
    return subprocess.run(argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def run(*argv: str | Path, cwd: Path, **variables: str) -> str:
    done = call(*argv, cwd=cwd, **variables)
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def build(kind: str, source: Path, target: Path, **variables: str) -> tuple[Path, str]:
    """Build an sdist or a wheel; return its path and the output."""
    output = run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target, cwd=source, **variables)
    (built,) = target.iterdir()
    return built, output


def unpack(sdist: Path, target: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    return target / f"pywsapp-{VERSION}"


def names_in_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.removeprefix(f"pywsapp-{VERSION}/") for name in archive.getnames()}


def names_in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.startswith(f"pywsapp-{VERSION}.dist-info/")}


def compiled(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith((".so", ".pyd"))}


@pytest.fixture(scope="module", autouse=True)
def unoptimized(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile without optimizations in this file, which takes a fifth of the time; `make compile` optimizes."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform == "win32":
        yield
        return
    script = tmp_path_factory.mktemp("compiler") / "cc"
    script.write_text(f'#!/bin/sh\nexec "{compiler}" "$@" -O0\n')
    script.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", str(script))
        yield


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))[0]


def with_only(source: Path, *names: str) -> Path:
    """Keep the declarations of these modules only, because compiling all of them takes long."""
    for declarations in (source / "src").rglob("*.pxd"):
        if declarations.stem not in names:
            declarations.unlink()
    return source


@pytest.fixture
def unpacked(sdist: Path, tmp_path: Path) -> Path:
    return unpack(sdist, tmp_path / "unpacked")


@pytest.fixture(scope="module")
def compiler() -> None:
    if not (shutil.which("cc") or sys.platform == "win32" or os.environ.get("CI")):
        pytest.skip("there is no C compiler; on Debian: apt-get install gcc libc6-dev")


@pytest.fixture(scope="module")
def wheel(sdist: Path, compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a packager builds it: from the sdist only, with remains of other builds in it."""
    source = unpack(sdist, tmp_path_factory.mktemp("unpacked"))
    for name in FOREIGN:
        (source / "src" / name).write_bytes(b"")
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))[0]


@pytest.fixture(scope="module")
def pure_wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = unpack(sdist, tmp_path_factory.mktemp("unpacked"))
    for name in FOREIGN:
        (source / "src" / name).write_bytes(b"")
    return build("wheel", source, tmp_path_factory.mktemp("wheel"), PYWSAPP_PURE="1")[0]


@pytest.fixture(scope="module")
def built_in_place(sdist: Path, compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = with_only(unpack(sdist, tmp_path_factory.mktemp("in_place")), *IN_PLACE)
    for name in FOREIGN:
        (source / "src" / name).write_bytes(b"")
    assert run(sys.executable, "hatch_build.py", cwd=source) == ""
    return source


@pytest.fixture
def in_place(built_in_place: Path, tmp_path: Path) -> Path:
    """A copy of the source tree with its extension modules, which a test can change."""
    return Path(shutil.copytree(built_in_place, tmp_path / "in_place"))


def extensions_of(source: Path) -> set[str]:
    """Return the extension modules that this Python would import."""
    found = {path.relative_to(source / "src").as_posix() for path in (source / "src").rglob("*")}
    return compiled(found) - {FOREIGN[2]}


def test_sdist_has_what_a_packager_needs(sdist: Path) -> None:
    names = names_in_sdist(sdist)
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "src/pywsapp/py.typed"} <= names
    assert {
        "tests/conftest.py",
        "tests/build/test_packaging.py",
        "conformance/expected.json",
        "scripts/test.sh",
    } <= names
    assert {"hatch_build.py", "src/pywsapp/_protocol/frames.pyx", "src/pywsapp/_protocol/frames.pxd"} <= names
    assert {name.partition("/")[0] for name in names} >= {"docs", "examples", "benchmarks"}


def test_sdist_has_no_leftovers(sdist: Path) -> None:
    leftovers = (".pyc", ".log", ".so", ".pyd", ".c.dep", ".o", ".stamp")
    hidden = [name for name in names_in_sdist(sdist) if name.startswith(".") and name != ".gitignore"]
    assert hidden == []
    assert [name for name in names_in_sdist(sdist) if "__pycache__" in name or name.endswith(leftovers)] == []
    assert not any(name.startswith("build") for name in names_in_sdist(sdist))


def test_sdist_has_nothing_of_a_build_in_place(in_place: Path, sdist: Path, tmp_path: Path) -> None:
    again, _ = build("sdist", in_place, tmp_path / "again")
    assert {name for name in names_in_sdist(sdist) if not name.endswith(".pxd")} <= names_in_sdist(again)
    assert names_in_sdist(again) <= names_in_sdist(sdist)


def test_wheel_has_exactly_the_package_and_its_extension_modules(wheel: Path, pure_wheel: Path) -> None:
    package = ROOT / "src" / "pywsapp"
    ignored = {".so", ".pyd"}
    expected = {
        f"pywsapp/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in ignored
    }
    assert names_in_wheel(pure_wheel) == expected
    assert names_in_wheel(wheel) == expected | EXTENSIONS
    assert len(EXTENSIONS) > 1
    info = f"pywsapp-{VERSION}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        others = set(archive.namelist()) - names_in_wheel(wheel)
    assert others == {
        f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    assert "pywsapp/py.typed" in expected
    assert any(name.startswith("pywsapp/_demo/") and name.endswith(".html") for name in expected)
    assert {Path(name).suffix for name in expected} <= {".py", ".pyx", ".pxd", ".html", ".typed"}


def test_wheel_tags(wheel: Path, pure_wheel: Path) -> None:
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert wheel.name.startswith(f"pywsapp-{VERSION}-{python}-{python}-")
    assert pure_wheel.name == PURE


def test_compiled_files_do_not_name_the_machine(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(compiled(names_in_wheel(wheel))):
            assert str(tmp_path.parent).encode() not in archive.read(name)


@pytest.mark.skipif(sys.platform == "win32", reason="CC means nothing to Visual C")
def test_without_a_compiler_the_wheel_is_pure(unpacked: Path, pure_wheel: Path, tmp_path: Path) -> None:
    built, output = build("wheel", unpacked, tmp_path / "wheel", **NO_COMPILER)
    assert built.name == PURE
    assert names_in_wheel(built) == names_in_wheel(pure_wheel)
    assert output.count("\n") < 5
    assert f"{WARNING}there is no C compiler that finds Python.h\n" in output


@pytest.mark.parametrize("package", ["Cython", "setuptools"])
def test_without_cython_the_wheel_is_pure(package: str, unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "path" / package).mkdir(parents=True)
    missing = f"raise ModuleNotFoundError(name={package!r})\n"
    (tmp_path / "path" / package / "__init__.py").write_text(missing)
    built, output = build("wheel", unpacked, tmp_path / "wheel", PYTHONPATH=str(tmp_path / "path"))
    assert built.name == PURE
    assert output.count("\n") < 5
    assert f"{WARNING}{package} is not installed" in output


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("_outbox/awaitables.py", "\ndef f(:\n", "pywsapp/_outbox/awaitables.py:"),
        ("_protocol/frames.pyx", '\ncdef extern from "no_such.h":\n    int no_such\n', "no_such.h"),
    ],
    ids=["Cython", "C"],
)
def test_one_module_that_does_not_compile_leaves_all_out(
    file: str, text: str, what: str, unpacked: Path, tmp_path: Path
) -> None:
    with (unpacked / "src" / "pywsapp" / file).open("a") as source:
        source.write(text)
    with_only(unpacked, "frames", "prepared", "awaitables")
    built, output = build("wheel", unpacked, tmp_path / "wheel")
    assert built.name == PURE
    assert compiled(names_in_wheel(built)) == set()
    assert output.count("\n") < 5
    assert WARNING in output
    assert what in output


@pytest.mark.parametrize("kind", ["wheel", "pure_wheel"])
def test_wheel_works_in_an_empty_environment(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    run(scripts / "python", "-m", "pip", "install", "--quiet", request.getfixturevalue(kind), cwd=tmp_path)
    place = run(scripts / "python", "-I", "-c", "import pywsapp; print(pywsapp.__file__)", cwd=tmp_path)
    assert place.startswith(str(tmp_path))
    builds: dict[str, dict[str, str]] = {"pure Python build": {}}
    if kind == "wheel":
        builds = {"compiled build": {}, "pure Python build": {"PYWSAPP_PURE": "1"}}
    for build_name, variables in builds.items():
        expected = f"pywsapp {VERSION} ({build_name}, Python 3."
        for command in ([scripts / "python", "-I", "-m", "pywsapp"], [scripts / "pywsapp"]):
            assert run(*command, "--version", cwd=tmp_path, **variables).startswith(expected)
        output = run(scripts / "python", "-I", ROOT / "scripts" / "smoke.py", build_name, cwd=tmp_path, **variables)
        assert build_name in output


def test_in_place_the_extension_modules_are_complete(built_in_place: Path) -> None:
    assert extensions_of(built_in_place) == EXTENSIONS_IN_PLACE


def test_in_place_an_editable_wheel_is_for_any_python(in_place: Path, tmp_path: Path) -> None:
    code = "import sys, hatchling.build; print(hatchling.build.build_editable(sys.argv[1]))"
    (in_place / "src" / "pywsapp" / f"app{hatch_build.SUFFIX}").write_bytes(b"")
    assert PURE in run(sys.executable, "-c", code, tmp_path, cwd=in_place)
    assert extensions_of(in_place) == EXTENSIONS_IN_PLACE
    assert PURE in run(sys.executable, "-c", code, tmp_path, cwd=in_place, PYWSAPP_PURE="1")
    assert extensions_of(in_place) == set()


def test_in_place_current_extension_modules_are_kept(in_place: Path) -> None:
    def times() -> list[float]:
        return [(in_place / "src" / name).stat().st_mtime for name in sorted(EXTENSIONS_IN_PLACE)]

    before = times()
    assert run(sys.executable, "hatch_build.py", cwd=in_place, **NO_COMPILER) == ""
    assert times() == before
    later = in_place / "src" / "pywsapp" / "_outbox" / "outbox.pxd"
    os.utime(later)
    run(sys.executable, "hatch_build.py", cwd=in_place)
    assert min(times()) > later.stat().st_mtime


@pytest.mark.skipif(sys.platform == "win32", reason="CC means nothing to Visual C")
def test_in_place_old_extension_modules_are_removed_without_a_compiler(in_place: Path) -> None:
    os.utime(in_place / "src" / "pywsapp" / "_outbox" / "outbox.py")
    done = call(sys.executable, "hatch_build.py", cwd=in_place, **NO_COMPILER)
    assert done.returncode == hatch_build.MISSING_TOOLS
    assert done.stderr.startswith("hatch_build.py: the extension modules are not built: there is no C compiler")
    assert done.stderr.count("\n") == 1
    assert extensions_of(in_place) == set()


def test_in_place_old_extension_modules_are_removed_when_a_module_does_not_compile(in_place: Path) -> None:
    with (in_place / "src" / "pywsapp" / "_outbox" / "outbox.py").open("a") as source:
        source.write("def f(:\n")
    done = call(sys.executable, "hatch_build.py", cwd=in_place)
    assert done.returncode == 1
    assert done.stderr.startswith("hatch_build.py: the extension modules are not built: pywsapp/_outbox/outbox.py:")
    assert done.stderr.count("\n") == 1
    assert extensions_of(in_place) == set()


@pytest.mark.parametrize("fault", ["older than .py", "older than .pyx", "older than .pxd", "in part", "foreign"])
def test_pytest_refuses_extension_modules_that_are_out_of_date(fault: str, in_place: Path) -> None:
    package = in_place / "src" / "pywsapp"
    sources = {".py": "_outbox/outbox.py", ".pyx": "_protocol/frames.pyx", ".pxd": "_protocol/prepared.pxd"}
    if fault.startswith("older"):
        os.utime(package / sources[fault.split()[-1]])
    elif fault == "in part":
        (package / "_outbox" / f"outbox{hatch_build.SUFFIX}").unlink()
    else:
        (package / "app.so").write_bytes(b"")
    done = call(*SUITE, cwd=in_place, PYTHONPATH="src")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "run: python hatch_build.py" in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_pytest_runs_the_pure_build_beside_extension_modules_that_are_out_of_date(in_place: Path) -> None:
    os.utime(in_place / "src" / "pywsapp" / "_outbox" / "outbox.py")
    assert "pywsapp: pure Python build, 0 extension modules" in run(
        *SUITE, cwd=in_place, PYTHONPATH="src", PYWSAPP_PURE="1"
    )
