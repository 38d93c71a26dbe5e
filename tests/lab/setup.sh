#!/usr/bin/env bash
# Installs the Debian packages that the lab and the integration tests use: setup.sh PACKAGES.TXT
# Only as root on Debian 12; elsewhere says what is left out and succeeds, since building and serving need none of them.
set -euo pipefail
list=$1
# shellcheck source=/dev/null
. /etc/os-release
if [ "${ID:-}" != debian ] || [ "${VERSION_ID:-}" != 12 ]; then
  echo "setup: ${PRETTY_NAME:-this system} is not Debian 12: no lab (real nodes); build, verify and serve work" >&2
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  echo "setup: not root: no lab (real nodes); build, verify and serve work" >&2
  exit 0
fi
wanted=() missing=()
while read -r package; do
  case $package in ''|'#'*) ;; *) wanted+=("$package") ;; esac
done < "$list"
for package in "${wanted[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "setup: installing ${#missing[@]} Debian packages …" >&2
# Their services are started by the lab itself, on addresses of its own: keep the packages from starting them.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2
