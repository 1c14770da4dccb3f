"""Run every fuzz target for some seconds; inputs are kept in fuzz/corpus/, failing inputs in fuzz/crash-*.

The fuzzer looks for new inputs on the pure Python build, because it sees no branches in extension modules. Afterwards
all inputs run on the compiled build.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parent.parent / "fuzz"
#: Seconds for one input. A parser that loops for ever fails then.
INPUT_SECONDS = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    args = parser.parse_args()
    targets = sorted(FUZZ.glob("fuzz_*.py"))
    if not targets:
        sys.exit(f"fuzz.py: no targets in {FUZZ}")
    if importlib.util.find_spec("atheris") is None:
        sys.exit(
            "fuzz.py: atheris has no wheel for this Python and platform; it has wheels for CPython 3.11-3.14 on Linux"
        )
    failed = []
    compiled = {name: value for name, value in os.environ.items() if name != "PYWSAPP_PURE"}
    for target in targets:
        corpus = FUZZ / "corpus" / target.stem
        corpus.mkdir(parents=True, exist_ok=True)
        print(f"{target.name} for {args.seconds} s", flush=True)
        command = command_of(target, corpus)
        search = [*command, f"-max_total_time={args.seconds}", "-print_final_stats=1"]
        if subprocess.call(search, env={**compiled, "PYWSAPP_PURE": "1"}) != 0:
            failed.append(target.name)
        if subprocess.call([*command, "-runs=0"], env=compiled) != 0:
            failed.append(f"{target.name} (compiled build only)")
    print(f"failed: {' '.join(failed)}" if failed else f"{len(targets)} targets, no failure")
    return 1 if failed else 0


def command_of(target: Path, corpus: Path) -> list[str]:
    """Return the command that runs a target, without what says for how long."""
    limits = f"-timeout={INPUT_SECONDS}", f"-artifact_prefix={FUZZ}/"
    return [sys.executable, str(target), *limits, str(corpus)]


if __name__ == "__main__":
    sys.exit(main())
