#!/usr/bin/env bash
# Sourced by the other scripts: makes `.venv` (or $ECOMGPT_VENV) once and puts its python into $PYTHON; defines keep_memory.
# Usage: . scripts/env.sh EXTRAS      (EXTRAS such as "" or "[dev]")

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make_environment() {
  local extras=$1 venv=${ECOMGPT_VENV:-$PWD/.venv} candidate stamp
  local candidates=(python3 python3.13 python3.12 python3.11)
  if [ -n "${PYTHON_FOR_VENV:-}" ]; then candidates=("$PYTHON_FOR_VENV"); fi
  stamp=$venv/.made-for-$(cksum <setup.py | cut -d' ' -f1)-${extras//[^a-z]/_}
  if [ ! -e "$stamp" ]; then
    for candidate in "${candidates[@]}"; do
      if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
      candidate=
    done
    if [ -z "$candidate" ]; then
      echo "error: Python 3.11 or newer is needed (tried ${candidates[*]}); install it or name it in PYTHON_FOR_VENV" >&2
      exit 66
    fi
    echo "Making the environment in $venv (once; downloads about 0.5 GB) ..." >&2
    "$candidate" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$extras"
    touch "$stamp"
  fi
  PYTHON=$venv/bin/python
}

# glibc returns large blocks at once and pages them in again at every step; keeping them saves a seventh of the time.
keep_memory() {
  export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456
}

make_environment "${1:-}"
