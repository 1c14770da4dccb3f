"""Run every fuzz target for a while; what it learned stays in fuzz/corpus/, an input that broke it in fuzz/crash-*."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parent.parent / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    args = parser.parse_args()
    targets = sorted(FUZZ.glob("fuzz_*.py"))
    if not targets:
        sys.exit(f"fuzz.py: no targets in {FUZZ}")
    if importlib.util.find_spec("atheris") is None:
        sys.exit("fuzz.py: atheris has no wheel for this Python and platform; it has for CPython 3.11-3.14 on Linux")
    failed = []
    for target in targets:
        corpus = FUZZ / "corpus" / target.stem
        corpus.mkdir(parents=True, exist_ok=True)
        print(f"{target.name} for {args.seconds} s", flush=True)
        options = [f"-max_total_time={args.seconds}", "-print_final_stats=1", f"-artifact_prefix={FUZZ}/"]
        if subprocess.call([sys.executable, str(target), *options, str(corpus)]) != 0:
            failed.append(target.name)
    print(f"failed: {' '.join(failed)}" if failed else f"{len(targets)} targets, no failure")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
