#!/bin/sh
# venv.sh DIRECTORY REQUIREMENT... : a virtual environment with these packages, made or brought up to date.
#
# Takes $PYTHON, or else the first Python on PATH that is new enough. Extra options for pip go into $PIP_INSTALL_ARGS.
set -eu

venv=$1
shift

usable() {
    # From /, so that a pyenv shim does not follow a .python-version of the project.
    (cd / && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))') >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if usable "$candidate"; then
            (cd / && "$candidate" -c 'import sys; print(sys.executable)')
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        echo "venv.sh: $PYTHON is not a working Python 3.10 or newer." >&2
    else
        echo "venv.sh: no Python 3.10 or newer found; install one, or name it: make PYTHON=/path/to/python3 ..." >&2
    fi
    return 1
}

# A Python that was upgraded or removed leaves an environment behind that cannot run.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "venv.sh: $python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
    echo "making $venv with $python"
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -qq --upgrade pip
fi

# shellcheck disable=SC2086  # several options may be given
"$venv/bin/python" -m pip install -qq ${PIP_INSTALL_ARGS:-} "$@"
