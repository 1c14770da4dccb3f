#!/bin/sh
# services.sh [PYTHON]: install the programs that the tests need beside Python packages.
#
# Root on Debian installs them. Otherwise the command is printed; tests that need a missing program are skipped, or
# fail if CI is set.
set -eu

python=${1:-python3}

# need WHAT PACKAGE... : install Debian packages, or print that WHAT is not tested without them.
need() {
    what=$1
    shift
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing $* (for $what)"
        export DEBIAN_FRONTEND=noninteractive
        log=$(mktemp)
        if apt-get update >"$log" 2>&1 && apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1; then
            rm "$log"
            return
        fi
        tail -n 20 "$log" >&2
        rm "$log"
    fi
    echo "services.sh: missing, so not tested: $what; on Debian: apt-get install $*" >&2
}

any() {
    for program; do
        if command -v "$program" >/dev/null 2>&1; then
            return
        fi
    done
    return 1
}

includes() {
    printf '#include <%s>\n' "$1" | cc ${2:+-I"$2"} -E - >/dev/null 2>&1
}

if ! any chromium chromium-browser google-chrome; then
    need "the browser" chromium
fi
PATH=$PATH:/usr/sbin # Debian installs servers there, and PATH often lacks it
if ! any haproxy || ! any nginx || [ ! -e /usr/lib/nginx/modules/ngx_stream_module.so ]; then
    need "the load balancers" haproxy nginx libnginx-mod-stream
fi
if ! any caddy; then
    need "Caddy as a load balancer" caddy
fi
if ! any systemd-analyze; then
    need "the units of systemd" systemd
fi
if ! any rabbitmq-server /usr/sbin/rabbitmq-server; then
    need "topics over RabbitMQ" rabbitmq-server
fi
if ! any nats-server /usr/sbin/nats-server; then
    need "topics over NATS" nats-server
fi
if ! any cc || ! includes stdio.h; then
    need "the compiled build and the load generator" gcc libc6-dev
fi
if any cc; then
    if ! includes zlib.h || ! includes openssl/ssl.h; then
        need "the load generator" zlib1g-dev libssl-dev
    fi
    # The headers of Debian's own Python are in a separate package; other Pythons include them.
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    if ! includes Python.h "$headers"; then
        need "the compiled build" "$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"
    fi
fi
if ! any redis-server valkey-server; then
    need "topics and sessions over Redis" redis-server
fi
if ! any memcached; then
    need "sessions in memcached" memcached
fi
if ! any promtool; then
    need "alerts and the dashboard of Prometheus" prometheus
fi
