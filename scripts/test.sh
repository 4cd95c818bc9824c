#!/usr/bin/env bash
# Runs the tests on a fresh machine: makes .venv, checks style, then pytest on eight fake CPU devices.
# Usage: scripts/test.sh [--all] [pytest arguments]      --all adds the slow tests (CI's long part)

. "$(dirname "$0")/env.sh" "[dev]"

selection="not slow and not soak"
if [ "${1:-}" = "--all" ]; then
  selection="not soak"
  shift
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$selection" "$@"
