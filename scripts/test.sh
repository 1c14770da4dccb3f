#!/bin/sh
# test.sh PYTHON ARGUMENT... : the suite on the compiled twin, and then on the Python source; arguments go to pytest.
#
# The second run leaves out what cannot differ. Where there is no twin, or PYWSAPP_PURE is set, the source is all there is.
set -eu

python=$1
shift

header() {
    printf '\n===== %s =====\n' "$*"
}

version=$("$python" -m pywsapp --version)
if [ -n "${PYWSAPP_PURE:-}" ]; then
    header "the Python source only: PYWSAPP_PURE is set"
    exec "$python" -m pytest "$@"
fi
case $version in
    *compiled*) ;;
    *)
        header "the Python source only: NOTHING IS COMPILED HERE, SO THE COMPILED TWIN IS NOT TESTED"
        PYWSAPP_PURE=1 exec "$python" -m pytest "$@"
        ;;
esac

header "1 of 2: the compiled twin"
compiled=0
"$python" -m pytest "$@" || compiled=$?
if [ "$compiled" -eq 2 ]; then
    exit 2 # interrupted
fi
header "2 of 2: the Python source"
pure=0
PYWSAPP_PURE=1 "$python" -m pytest -m "not once" "$@" || pure=$?
if [ "$pure" -eq 5 ] && [ "$compiled" -eq 0 ]; then
    pure=0 # what was chosen has been run once
fi
if [ "$compiled" -ne 0 ] || [ "$pure" -ne 0 ]; then
    echo "test.sh: pytest ended with $compiled on the compiled twin, and with $pure on the Python source" >&2
    exit 1
fi
