"""Run fuzz targets for some seconds each, and keep inputs that reach more of the code.

fuzz.py                                 every target for 60 seconds
fuzz.py --seconds 600 frames deflate    two targets for longer
fuzz.py --minimise                      take what earlier runs have found into fuzz/corpus; drop what adds nothing

A run begins with the inputs in fuzz/corpus/<target>, which the tests replay, and with those of earlier runs. New inputs
are in build/fuzz/<target>, until `--minimise` takes them into the corpus, at most 400 bytes each. Inputs that fail,
take too long or need too much memory are in fuzz/failures; the last lines of the output name them, and the command that
runs one again. Move a failing input into the corpus when its fault is fixed.

The fuzzer looks for new inputs on the pure Python build, because it sees no branches in extension modules. Afterwards
all inputs run on the compiled build.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUZZ = ROOT / "fuzz"
FAILURES = FUZZ / "failures"
FOUND = ROOT / "build" / "fuzz"
#: Bytes of an input in the corpus; larger ones make the repository large, and reach little more.
MAX_KEPT = 400


def corpus_of(target: Path) -> tuple[Path, Path]:
    """Return the directories of new inputs and of kept ones."""
    name = target.stem
    directories = FOUND / name, FUZZ / "corpus" / name
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
    return directories


def variables(*, pure: bool) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name != "PYWSAPP_PURE"}
    return {**found, "PYWSAPP_PURE": "1"} if pure else found


def fuzz(target: Path, seconds: int) -> list[str]:
    """Run a target on the pure Python build, then all inputs on the compiled build; return what failed."""
    FAILURES.mkdir(exist_ok=True)
    found, kept = corpus_of(target)
    prefix = f"-artifact_prefix={FAILURES}/{target.stem.removeprefix('fuzz_')}-"
    command = [sys.executable, str(target), prefix, str(found), str(kept)]
    failed = []
    search = [*command, f"-max_total_time={seconds}", "-print_final_stats=1"]
    if subprocess.call(search, env=variables(pure=True)) != 0:
        failed.append(target.name)
    if subprocess.call([*command, "-runs=0"], env=variables(pure=False)) != 0:
        failed.append(f"{target.name} (compiled build only)")
    return failed


def minimise(target: Path) -> list[str]:
    """Replace the corpus of a target by fewer inputs that reach the same code; return what failed."""
    found, kept = corpus_of(target)
    with tempfile.TemporaryDirectory() as directory:
        small = Path(directory, "small")
        small.mkdir()
        for number, source in enumerate((kept, found)):
            for path in source.iterdir():
                if path.stat().st_size <= MAX_KEPT:
                    (small / f"{number}-{path.name}").write_bytes(path.read_bytes())
        merged = Path(directory, "merged")
        merged.mkdir()
        command = [sys.executable, str(target), "-merge=1", str(merged), str(small)]
        done = subprocess.run(command, env=variables(pure=True), capture_output=True, text=True, errors="replace")
        inputs = {path.name: path.read_bytes() for path in merged.iterdir()}
    if done.returncode != 0 or not inputs:
        print(done.stderr[-2000:])
        return [target.name]
    for path in kept.iterdir():
        path.unlink()
    for name, data in inputs.items():
        (kept / name).write_bytes(data)
    print(f"{target.name}: {len(inputs)} inputs, {sum(map(len, inputs.values()))} bytes", flush=True)
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="such as `frames` for fuzz_frames.py (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    parser.add_argument("--minimise", action="store_true", help="update fuzz/corpus, and fuzz nothing")
    args = parser.parse_args()
    targets = [path for path in sorted(FUZZ.glob("fuzz_*.py")) if not args.targets or path.stem[5:] in args.targets]
    if len(targets) < max(len(set(args.targets)), 1):
        sys.exit(f"fuzz.py: there is no target for one of {args.targets or FUZZ}")
    if importlib.util.find_spec("atheris") is None:
        sys.exit(
            "fuzz.py: atheris has no wheel for this Python and platform; it has wheels for CPython 3.11-3.14 on Linux"
        )
    before = set(FAILURES.glob("*"))
    failed = []
    for target in targets:
        if args.minimise:
            failed += minimise(target)
            continue
        print(f"{target.name} for {args.seconds} s", flush=True)
        failed += fuzz(target, args.seconds)
    for path in sorted(set(FAILURES.glob("*")) - before):
        target = next(target for target in targets if path.name.startswith(f"{target.stem[5:]}-"))
        print(f"{path.relative_to(ROOT)}: run it again with `{sys.executable} {target.relative_to(ROOT)} {path}`")
    print(f"failed: {' '.join(failed)}" if failed else f"{len(targets)} targets, no failure")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
