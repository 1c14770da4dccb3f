#!/bin/sh
# test.sh PYTHON ARGUMENT... : run the tests on the compiled build, then on the pure Python build; arguments go to pytest.
#
# The second run skips the tests that cannot differ. Without extension modules, or with PYWSAPP_PURE set, there is one
# run, on the pure Python build.
set -eu

python=$1
shift

header() {
    printf '\n===== %s =====\n' "$*"
}

version=$("$python" -m pywsapp --version)
if [ -n "${PYWSAPP_PURE:-}" ]; then
    header "the pure Python build only: PYWSAPP_PURE is set"
    exec "$python" -m pytest "$@"
fi
case $version in
    *compiled*) ;;
    *)
        header "the pure Python build only: THERE ARE NO EXTENSION MODULES, SO THE COMPILED BUILD IS NOT TESTED"
        PYWSAPP_PURE=1 exec "$python" -m pytest "$@"
        ;;
esac

header "1 of 2: the compiled build"
compiled=0
"$python" -m pytest "$@" || compiled=$?
if [ "$compiled" -eq 2 ]; then
    exit 2 # interrupted
fi
header "2 of 2: the pure Python build"
pure=0
PYWSAPP_PURE=1 "$python" -m pytest -m "not once" "$@" || pure=$?
if [ "$pure" -eq 5 ] && [ "$compiled" -eq 0 ]; then
    pure=0 # the selected tests run on one build only
fi
if [ "$compiled" -ne 0 ] || [ "$pure" -ne 0 ]; then
    echo "test.sh: pytest ended with $compiled on the compiled build, and with $pure on the pure Python build" >&2
    exit 1
fi
