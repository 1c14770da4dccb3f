"""The published files: the tests build them, check their contents and use them in an empty environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import hatch_build
import pytest

import pywsapp

ROOT = Path(__file__).parent.parent.parent
VERSION = pywsapp.__version__
PURE = f"pywsapp-{VERSION}-py3-none-any.whl"
NO_COMPILER = {"CC": "/bin/false"}
WARNING = "pywsapp is built without its extension modules: "
#: The modules that these tests compile: one with a .pyx, and one without. To compile all of them takes a minute, and
#: `make compile` does it before the tests.
COMPILED = ("frames", "prepared")
EXTENSIONS = {f"{name}{hatch_build.SUFFIX}" for name in hatch_build.modules() if Path(name).name in COMPILED}
FOREIGN = ("pywsapp/app.so", f"pywsapp/app{hatch_build.SUFFIX}", "pywsapp/_protocol/frames.cp39-win_amd64.pyd")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def call(*argv: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    # PYTHONPATH could name another pywsapp than the one that is tested.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYWSAPP_PURE", "PYTHONPATH")}
    environment.setdefault("CFLAGS", "-O0")  # half of the time is the optimizer's
    environment |= variables
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


def package() -> set[str]:
    """Return the files of the package in this checkout, without extension modules."""
    files = {path for path in (ROOT / "src" / "pywsapp").rglob("*") if path.is_file()}
    kept = {path for path in files if "__pycache__" not in path.parts and path.suffix not in (".so", ".pyd")}
    return {path.relative_to(ROOT / "src").as_posix() for path in kept} | {"pywsapp_pytest.py"}


def names_in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.startswith(f"pywsapp-{VERSION}.dist-info/")}


def compiled(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith((".so", ".pyd"))}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))[0]


def unpack_with(sdist: Path, target: Path, *names: str) -> Path:
    """Unpack an sdist, and keep the declarations of some modules only, so that no others are compiled."""
    source = unpack(sdist, target)
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
    source = unpack_with(sdist, tmp_path_factory.mktemp("unpacked"), *COMPILED)
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
    source = unpack_with(sdist, tmp_path_factory.mktemp("in_place"), *COMPILED)
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
        "requirements/dev.txt",
        "scripts/test.sh",
    } <= names
    assert {name for name in names if name.startswith("src/")} == {f"src/{name}" for name in package()}
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
    expected = package()
    assert names_in_wheel(pure_wheel) == expected
    not_compiled = {name for name in expected if name.endswith(".pxd") and Path(name).stem not in COMPILED}
    assert names_in_wheel(wheel) == expected - not_compiled | EXTENSIONS
    assert len(EXTENSIONS) == len(COMPILED)
    info = f"pywsapp-{VERSION}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        others = set(archive.namelist()) - names_in_wheel(wheel)
        assert b"pytest11" in archive.read(f"{info}/entry_points.txt")
    assert others == {
        f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    assert "pywsapp/py.typed" in expected
    assert {"pywsapp/browser/pywsapp.js", "pywsapp/browser/pywsapp.d.ts", "pywsapp/browser/package.json"} <= expected
    assert any(name.startswith("pywsapp/_demo/") and name.endswith(".html") for name in expected)
    assert {Path(name).suffix for name in expected} <= {
        ".py",
        ".pyx",
        ".pxd",
        ".html",
        ".css",
        ".typed",
        ".js",
        ".ts",
        ".json",
    }


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
        ("_protocol/prepared.py", "\ndef f(:\n", "pywsapp/_protocol/prepared.py:"),
        ("_protocol/frames.pyx", '\ncdef extern from "no_such.h":\n    int no_such\n', "no_such.h"),
    ],
    ids=["Cython", "C"],
)
def test_one_module_that_does_not_compile_leaves_all_out(
    file: str, text: str, what: str, sdist: Path, tmp_path: Path
) -> None:
    unpacked = unpack_with(sdist, tmp_path / "unpacked", *COMPILED)
    with (unpacked / "src" / "pywsapp" / file).open("a") as source:
        source.write(text)
    built, output = build("wheel", unpacked, tmp_path / "wheel")
    assert built.name == PURE
    assert compiled(names_in_wheel(built)) == set()
    assert output.count("\n") < 5
    assert WARNING in output
    assert what in output


def install(wheel: Path, directory: Path) -> Path:
    """Install a wheel in an empty environment; return the directory of its programs."""
    venv.create(directory, with_pip=False)
    run(sys.executable, "-m", "pip", "--python", directory, "install", "--quiet", wheel, cwd=directory)
    return directory / ("Scripts" if sys.platform == "win32" else "bin")


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("venv"))


@pytest.fixture(scope="module")
def pure_scripts(pure_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(pure_wheel, tmp_path_factory.mktemp("venv"))


@pytest.mark.parametrize(
    ("kind", "build_name"),
    [("scripts", "compiled build"), ("pure_scripts", "pure Python build"), ("scripts, excluded", "pure Python build")],
    ids=["wheel", "pure wheel", "wheel with PYWSAPP_PURE"],
)
def test_wheel_works_in_an_empty_environment(
    kind: str, build_name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name, _, excluded = kind.partition(",")
    variables = {"PYWSAPP_PURE": "1"} if excluded else {}
    scripts: Path = request.getfixturevalue(name)
    place = run(scripts / "python", "-I", "-c", "import pywsapp; print(pywsapp.__file__)", cwd=tmp_path)
    assert place.startswith(str(scripts.parent))
    expected = f"pywsapp {VERSION} ({build_name}, Python 3."
    assert run(scripts / "python", "-I", "-m", "pywsapp", "--version", cwd=tmp_path, **variables).startswith(expected)
    assert run(scripts / "pywsapp", "--version", cwd=tmp_path, **variables).startswith(expected)
    output = run(scripts / "python", "-I", ROOT / "scripts" / "smoke.py", build_name, cwd=tmp_path, **variables)
    assert build_name in output


def test_in_place_the_extension_modules_are_complete(built_in_place: Path) -> None:
    assert extensions_of(built_in_place) == EXTENSIONS


def test_in_place_an_editable_wheel_is_for_any_python(in_place: Path, tmp_path: Path) -> None:
    code = "import sys, hatchling.build; print(hatchling.build.build_editable(sys.argv[1]))"
    (in_place / "src" / "pywsapp" / f"app{hatch_build.SUFFIX}").write_bytes(b"")
    assert PURE in run(sys.executable, "-c", code, tmp_path, cwd=in_place)
    assert extensions_of(in_place) == EXTENSIONS
    assert PURE in run(sys.executable, "-c", code, tmp_path, cwd=in_place, PYWSAPP_PURE="1")
    assert extensions_of(in_place) == set()


def test_in_place_current_extension_modules_are_kept(in_place: Path) -> None:
    def times() -> list[float]:
        return [(in_place / "src" / name).stat().st_mtime for name in sorted(EXTENSIONS)]

    before = times()
    assert run(sys.executable, "hatch_build.py", cwd=in_place, **NO_COMPILER) == ""
    assert times() == before
    later = in_place / "src" / "pywsapp" / "_protocol" / "prepared.pxd"
    os.utime(later)
    run(sys.executable, "hatch_build.py", cwd=in_place)
    assert min(times()) > later.stat().st_mtime


@pytest.mark.skipif(sys.platform == "win32", reason="CC means nothing to Visual C")
def test_in_place_old_extension_modules_are_removed_without_a_compiler(in_place: Path) -> None:
    os.utime(in_place / "src" / "pywsapp" / "_protocol" / "prepared.py")
    done = call(sys.executable, "hatch_build.py", cwd=in_place, **NO_COMPILER)
    assert done.returncode == hatch_build.MISSING_TOOLS
    assert done.stderr.startswith("hatch_build.py: the extension modules are not built: there is no C compiler")
    assert done.stderr.count("\n") == 1
    assert extensions_of(in_place) == set()


def test_in_place_old_extension_modules_are_removed_when_a_module_does_not_compile(in_place: Path) -> None:
    with (in_place / "src" / "pywsapp" / "_protocol" / "prepared.py").open("a") as source:
        source.write("def f(:\n")
    done = call(sys.executable, "hatch_build.py", cwd=in_place)
    assert done.returncode == 1
    assert done.stderr.startswith("hatch_build.py: the extension modules are not built: pywsapp/_protocol/prepared.py:")
    assert done.stderr.count("\n") == 1
    assert extensions_of(in_place) == set()


@pytest.mark.parametrize("fault", ["older than .py", "older than .pyx", "older than .pxd", "in part", "foreign"])
def test_extension_modules_that_are_out_of_date_are_noticed(fault: str, in_place: Path) -> None:
    protocol = in_place / "src" / "pywsapp" / "_protocol"
    sources = {".py": "prepared.py", ".pyx": "frames.pyx", ".pxd": "prepared.pxd"}
    assert fault_in_place(in_place) == "None"
    if fault.startswith("older"):
        name = sources[fault.split()[-1]]
        os.utime(protocol / name)
        assert fault_in_place(in_place) == f"src/pywsapp/_protocol/{name} is newer than the extension modules"
    elif fault == "in part":
        (protocol / f"prepared{hatch_build.SUFFIX}").unlink()
        assert fault_in_place(in_place) == f"src/pywsapp/_protocol/prepared{hatch_build.SUFFIX} is missing"
    else:
        (in_place / "src" / "pywsapp" / "app.so").write_bytes(b"")
        assert fault_in_place(in_place) == "src/pywsapp/app.so has no .pxd"


def fault_in_place(source: Path) -> str:
    return run(sys.executable, "-c", "import hatch_build; print(hatch_build.fault_in_place())", cwd=source).strip()


def test_pytest_refuses_extension_modules_that_are_out_of_date(in_place: Path) -> None:
    os.utime(in_place / "src" / "pywsapp" / "_protocol" / "prepared.py")
    suite = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_close_codes.py"]
    done = call(*suite, cwd=in_place, PYTHONPATH="src")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert fault_in_place(in_place) in done.stderr
    assert "run: python hatch_build.py" in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert "pywsapp: pure Python build, 0 extension modules" in run(
        *suite, cwd=in_place, PYTHONPATH="src", PYWSAPP_PURE="1"
    )
