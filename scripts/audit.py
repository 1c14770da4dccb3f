"""Audit the packages in this environment: conflicts, licences, versions, and known vulnerabilities.

1. `pip check`: every package has the versions that it requires.
2. Licences: what an installation of pywsapp with all extras brings along has one of the licences below.
3. New versions: what `make lock ARGS=--upgrade` would change; printed only.
4. Known vulnerabilities: pip-audit, in an environment of its own. It asks PyPI over the network. Where PyPI's interface
   for this cannot be reached, the result is "NOT CHECKED", and with --strict a failure.

Exit status: 1 if a check failed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
#: Licences that allow every use of a program that includes the package. All of them are permissive, except MPL-2.0,
#: which asks for the source of changed files only.
LICENCES = ("MIT", "BSD", "Apache", "ISC", "PSF", "MPL-2.0", "Python Software Foundation", "ZPL", "0BSD", "Unlicense")
NOT_AUDITED = re.compile(r"could not be audited|Connection|resolve|Max retries")


def installed_with(name: str, extras: set[str], seen: dict[str, set[str]]) -> None:
    """Add the names of all packages that an installation of one brings along, with the extras of each."""
    known = seen.setdefault(name, set())
    if seen[name] >= extras and known:
        return
    known |= extras | {""}
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in known):
            try:
                installed_with(requirement.name.lower().replace("_", "-"), set(requirement.extras), seen)
            except metadata.PackageNotFoundError:
                seen.pop(requirement.name.lower().replace("_", "-"), None)  # for another system


def licence(name: str) -> str:
    """Return what a package says about its licence."""
    about = metadata.metadata(name)
    classifiers = [text.rpartition(":: ")[2] for text in about.get_all("Classifier") or [] if "License ::" in text]
    stated = [*(about.get_all("License-Expression") or []), ", ".join(classifiers), *(about.get_all("License") or [])]
    return next(filter(None, stated), "unknown").partition("\n")[0]


def check_licences() -> bool:
    """Print the licence of each package that users install; return whether all are allowed."""
    seen: dict[str, set[str]] = {}
    installed_with("pywsapp", {"all"}, seen)
    refused = []
    for name in sorted(seen):
        print(f"  {name:<22} {metadata.version(name):<14} {licence(name)}")
        if not any(one.lower() in licence(name).lower() for one in LICENCES):
            refused.append(name)
    print(f"  not allowed: {', '.join(refused) or 'none'}")
    return not refused


def pip(*arguments: str) -> int:
    return subprocess.call([sys.executable, "-m", "pip", *arguments])


def check_vulnerabilities() -> bool | None:
    """Run pip-audit on the locks; return None if it could not ask."""
    tool = ROOT / ".venvs" / "audit"
    subprocess.check_call(["sh", "scripts/venv.sh", str(tool), "pip-audit"], cwd=ROOT)
    results = []
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        command = [str(tool / "bin" / "pip-audit"), "--require-hashes", "--disable-pip", "-r", str(lock)]
        done = subprocess.run(command, capture_output=True, text=True)
        output = done.stdout + done.stderr
        asked = NOT_AUDITED.search(output) is None
        print(output if asked else f"  {lock.name}: the database of vulnerabilities cannot be reached from here")
        results.append(done.returncode == 0 if asked else None)
    return None if None in results else all(results)


def main() -> int:
    strict = "--strict" in sys.argv[1:]
    print("conflicts", flush=True)
    good = pip("check") == 0
    print("licences", flush=True)
    good = check_licences() and good
    print("new versions", flush=True)
    pip("list", "--outdated")
    print("known vulnerabilities", flush=True)
    secure = check_vulnerabilities()
    print("  NOT CHECKED" if secure is None else f"  {'none' if secure else 'FOUND'}")
    return 0 if good and (secure or (secure is None and not strict)) else 1


if __name__ == "__main__":
    sys.exit(main())
