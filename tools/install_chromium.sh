#!/bin/sh
# Chromium for the browser tests, from the system's packages; does nothing where it is there.
# Where that fails, the browser tests skip and say why, so it is no failure.
set -u

if [ -x /usr/bin/chromium ] || command -v chromium >/dev/null 2>&1; then
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "Chromium is not installed: no apt-get here. The browser tests will be skipped."
    exit 0
fi

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    # -n: a password prompt would hang an unattended run.
    if ! command -v sudo >/dev/null 2>&1 || ! sudo -n true 2>/dev/null; then
        echo "Chromium is not installed: neither root nor sudo. The browser tests will be skipped."
        exit 0
    fi
    as_root="sudo -n"
fi

# A stale or partly unreachable list is no reason to stop: the install below tells.
$as_root apt-get update -qq || true
for _ in 1 2 3; do
    if $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends chromium; then
        exit 0
    fi
    sleep 5
done
echo "Chromium is not installed: apt-get failed, see above. The browser tests will be skipped." >&2
