#!/usr/bin/env bash
# From nothing to a report: environment, embedded data, a small pretrained model that is tuned on it, 12 held-out tasks
# scored before and after.
# Usage: scripts/quickstart.sh [further arguments of `python -m ecomgpt_jax.train`]

. "$(dirname "$0")/env.sh" ""

keep_memory
exec "$PYTHON" -m ecomgpt_jax.train --config configs/demo.py:nano --workdir runs/demo "$@"
