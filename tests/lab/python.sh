#!/usr/bin/env bash
# Makes the virtual environment: python.sh PYTHON VENV. Debian ships python3 without venv; root may add it.
set -euo pipefail
python=$1 venv=$2
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "error: $python cannot make virtual environments; install its venv module (Debian: python3-venv)" >&2
    exit 7
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-venv >&2
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "installing the Python packages into $venv …" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[test]'
