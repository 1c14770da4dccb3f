#!/bin/sh
# venv.sh DIRECTORY REQUIREMENT... : create or update a virtual environment with these packages.
#
# It uses $PYTHON, or else the first Python on PATH that is new enough. $PIP_INSTALL_ARGS has further options for pip.
# If $LOCK names files of requirements/, exactly their packages are installed, and then this project alone, without the
# packages that it requires. Packages that build it come from these files too.
set -eu

venv=$1
shift

usable() {
    # In /, so that a pyenv shim does not follow a .python-version of the project.
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
        echo "venv.sh: no Python 3.10 or newer found; install one, or pass its path: make PYTHON=/path/to/python3 ..." >&2
    fi
    return 1
}

# An environment cannot run after its Python was upgraded or removed.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "venv.sh: $python cannot create virtual environments; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
    echo "creating $venv with $python"
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -qq --upgrade pip
fi

if [ -n "${LOCK:-}" ]; then
    for lock in $LOCK; do
        "$venv/bin/python" -m pip install -qq --require-hashes -r "$lock"
    done
    set -- --no-deps --no-build-isolation "$@"
fi

# shellcheck disable=SC2086  # it can hold several options
"$venv/bin/python" -m pip install -qq ${PIP_INSTALL_ARGS:-} "$@"
