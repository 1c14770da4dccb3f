#!/bin/sh
# services.sh: what the tests need beside Python packages, installed if that is possible here.
#
# Root on Debian gets it; anybody else is told the command, and the tests that need it are skipped (with CI set: fail).
set -eu

for browser in chromium chromium-browser google-chrome; do
    if command -v "$browser" >/dev/null 2>&1; then
        exit 0
    fi
done
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing chromium (for the browser tests)"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    if apt-get update >"$log" 2>&1 && apt-get install -y --no-install-recommends chromium >>"$log" 2>&1; then
        rm "$log"
        exit 0
    fi
    tail -n 20 "$log" >&2
    rm "$log"
fi
echo "services.sh: chromium is missing, so the browser tests will not run; on Debian: apt-get install chromium" >&2
