#!/bin/sh
# test.sh PYTHON ARGUMENT... : run the tests on the compiled build, then on the pure Python build; arguments go to pytest.
#
# The tests of a build run in two parts, each two files at a time: first most of them, then those with the mark `alone`.
# The pure Python build skips the tests that cannot differ. Without extension modules, or with PYWSAPP_PURE set, it is the
# only one, and skips none. `-n 0` among the arguments runs all tests in one process, `-n 4` in four.
set -eu

python=$1
shift
# The tests start some hundred programs. Each of them would compile the whole package again.
unset PYTHONDONTWRITEBYTECODE

NONE_SELECTED=5 # pytest's status
INTERRUPTED=2

header() {
    printf '\n===== %s =====\n' "$*"
}

# build NAME ARGUMENT... : run both parts of the tests on one build. The status is 5 if neither of them selects a test.
build() {
    name=$1
    shift
    header "the $name: most tests, side by side"
    beside=0
    "$python" -m pytest --part side-by-side -n 2 --dist loadfile "$@" || beside=$?
    [ "$beside" -ne "$INTERRUPTED" ] || exit "$INTERRUPTED"
    header "the $name: the other tests"
    alone=0
    "$python" -m pytest --part alone -n 2 --dist loadfile "$@" || alone=$?
    [ "$alone" -ne "$INTERRUPTED" ] || exit "$INTERRUPTED"
    case $beside,$alone in
        0,0 | 0,$NONE_SELECTED | $NONE_SELECTED,0) return 0 ;;
        0,* | $NONE_SELECTED,*) return "$alone" ;;
        *) return "$beside" ;;
    esac
}

version=$("$python" -m pywsapp --version)
if [ -n "${PYWSAPP_PURE:-}" ]; then
    header "the pure Python build only: PYWSAPP_PURE is set"
    build "pure Python build" "$@"
    exit
fi
case $version in
    *compiled*) ;;
    *)
        header "the pure Python build only: THERE ARE NO EXTENSION MODULES, SO THE COMPILED BUILD IS NOT TESTED"
        export PYWSAPP_PURE=1
        build "pure Python build" "$@"
        exit
        ;;
esac

compiled=0
build "compiled build" "$@" || compiled=$?
export PYWSAPP_PURE=1
pure=0
build "pure Python build" -m "not one_build" "$@" || pure=$?
if [ "$pure" -eq "$NONE_SELECTED" ] && [ "$compiled" -eq 0 ]; then
    pure=0 # the selected tests run on one build only
fi
if [ "$compiled" -ne 0 ] || [ "$pure" -ne 0 ]; then
    echo "test.sh: pytest ended with $compiled on the compiled build, and with $pure on the pure Python build" >&2
    exit 1
fi
