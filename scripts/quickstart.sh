#!/usr/bin/env bash
# From nothing to a report: environment, embedded data, training, 12 held-out tasks scored before and after.
# Usage: scripts/quickstart.sh [further arguments of `python -m ecomgpt_jax.train`]

. "$(dirname "$0")/env.sh" ""

exec "$PYTHON" -m ecomgpt_jax.train --config configs/demo.py --workdir runs/demo "$@"
