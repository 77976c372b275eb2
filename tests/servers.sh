#!/bin/sh
# Installs what the slow tests of the store and the pages use, from Debian's packages: a PostgreSQL server and Chromium.
# Left out: starting them; each test starts its own and ends it. Without root nothing is installed, and those tests skip by name.
set -eu
[ -x /usr/bin/chromium ] && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "PostgreSQL and Chromium are not installed here; as root on Debian: apt-get install postgresql chromium" >&2
    exit 0
fi
apt-get install --yes --no-install-recommends postgresql chromium
