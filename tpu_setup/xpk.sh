#!/usr/bin/env bash
# Starts the run on an existing GKE cluster through xpk (pip install xpk): xpk builds the image, and GKE restarts the run
# after a preemption.
#
# The workdir is /bucket/RUN_NAME/workdir; attach the bucket to the cluster once:
#   xpk storage attach ecomgpt --type=gcsfuse --bucket=BUCKET --mount-point=/bucket --auto-mount=true --readonly=false \
#     --size=1 --cluster=CLUSTER --project=PROJECT --zone=ZONE
#
# Usage: xpk.sh [--dry-run] -- ARGUMENTS OF python -m ecomgpt_jax.train
# Reads PROJECT ZONE CLUSTER TPU_TYPE BUCKET RUN_NAME.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
parse "$@"
need PROJECT ZONE CLUSTER TPU_TYPE BUCKET RUN_NAME
[ ${#ARGUMENTS[@]} -gt 0 ] || die "say what to train: xpk.sh -- --config configs/bloomz_7b1.py"
if [ "$DRY_RUN" = 0 ] && ! command -v xpk >/dev/null; then die "xpk is not installed; pip install xpk" 66; fi
train="pip install -q '.[tpu]' && python -m ecomgpt_jax.train --workdir /bucket/$RUN_NAME/workdir --resume auto"
train+=$(printf ' %q' "${ARGUMENTS[@]}")
run xpk workload create --cluster="$CLUSTER" "${PLACE[@]}" --workload="$RUN_NAME" --tpu-type="$TPU_TYPE" \
  --num-slices=1 --max-restarts=100 --base-docker-image=python:3.12 --script-dir="$TPU_SETUP/.." --command="$train"
