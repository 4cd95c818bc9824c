#!/usr/bin/env bash
# Creates the environment, tunes a small pretrained model on the embedded data, scores 12 held-out tasks before and after,
# and writes a report.
# Usage: scripts/quickstart.sh [further arguments of `python -m ecomgpt_jax.train`]

. "$(dirname "$0")/env.sh" ""

keep_memory
exec "$PYTHON" -m ecomgpt_jax.train --config configs/demo.py:nano --workdir runs/demo "$@"
