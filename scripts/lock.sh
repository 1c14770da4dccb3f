#!/bin/sh
# lock.sh [--upgrade]: write requirements/*.txt, the versions and hashes of all packages that CI installs.
#
# Without --upgrade the versions stay, except where pyproject.toml asks for others. The files are for every supported
# Python and system. uv writes them, in an environment of its own; it is not needed for anything else.
set -eu

cd "$(dirname "$0")/.."
tool=.venvs/lock
sh scripts/venv.sh "$tool" uv==0.13.9

# compile EXTRA ARGUMENT... : write the lock of an extra.
compile() {
    extra=$1
    shift
    "$tool/bin/uv" pip compile --quiet --universal --python-version 3.10 --generate-hashes \
        --custom-compile-command "make lock" --extra "$extra" --output-file "requirements/$extra.txt" \
        "$@" pyproject.toml
}

mkdir -p requirements
compile dev "$@"
compile fuzz --constraint requirements/dev.txt "$@"
