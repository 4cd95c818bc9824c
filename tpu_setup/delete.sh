#!/usr/bin/env bash
# Deletes the TPU and everything that create.sh created for it, after confirmation. The bucket is not changed.
#
# Usage: delete.sh [--api tpu|compute] [--yes] [--dry-run]
# Reads PROJECT ZONE TPU_NAME TPU_TYPE.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
yes=0
own_option() { if [ "$1" = --yes ]; then yes=1 TAKEN=1; fi; }
parse "$@"
need PROJECT ZONE TPU_NAME TPU_TYPE

if [ "$yes" = 0 ] && [ "$DRY_RUN" = 0 ]; then
  [ -t 0 ] || die "deleting $TPU_NAME needs a yes: run it in a terminal, or with --yes"
  read -rp "Delete $TPU_NAME ($TPU_TYPE in $ZONE) and stop what runs on it? Type its name: " answer
  [ "$answer" = "$TPU_NAME" ] || die "not deleted"
fi

if [ "$API" = tpu ]; then
  run gcloud compute tpus queued-resources delete "$TPU_NAME" "${PLACE[@]}" --force --quiet
elif [ "$HOSTS" = 1 ]; then
  run gcloud compute instances delete "$TPU_NAME" "${PLACE[@]}" --quiet
else
  # Each may be missing after a creation that failed half way; what is left must go all the same.
  failed=0
  run gcloud compute instance-groups managed delete "$TPU_NAME" "${PLACE[@]}" --quiet || failed=1
  run gcloud compute instance-templates delete "$TPU_NAME" --project="$PROJECT" --quiet || failed=1
  run gcloud compute resource-policies delete "$TPU_NAME" --project="$PROJECT" --region="$REGION" --quiet || failed=1
  [ "$failed" = 0 ] || die "not everything of $TPU_NAME could be deleted; see above" 74
fi
