#!/usr/bin/env bash
# From nothing to a report: environment, embedded data, a small pretrained model that is tuned on it, 12 held-out tasks
# scored before and after.
# Usage: scripts/quickstart.sh [further arguments of `python -m ecomgpt_jax.train`]

. "$(dirname "$0")/env.sh" ""

# glibc gives large blocks back at once and pages them in again at every step; keeping them saves a seventh of the time.
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456
exec "$PYTHON" -m ecomgpt_jax.train --config configs/demo.py:nano --workdir runs/demo "$@"
