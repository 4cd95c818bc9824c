#!/usr/bin/env bash
# Prints the state of the TPU, its workers and the run.
#
# Usage: status.sh [--api tpu|compute] [--dry-run]
# Reads PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
parse "$@"
need PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME

if [ "$DRY_RUN" = 1 ]; then
  gcloud() { DRY_RUN=1 run gcloud "$@"; }
  describe
  worker status
  gcloud storage cat "gs://$BUCKET/$RUN_NAME/DONE"
  exit
fi
now=$(state)
echo "tpu $TPU_NAME ($TPU_TYPE): $now"
if [ "$now" = ready ]; then worker status || echo "workers: no answer"; fi
if is_done; then echo "run $RUN_NAME: done"; else echo "run $RUN_NAME: not done"; fi
