#!/usr/bin/env bash
# Checks for common problems: rights and the bucket here; on the workers (after launch.sh) scopes, bucket, the
# coordinator's port, chips, and that all have the same code.
#
# Usage: doctor.sh [--api tpu|compute] [--dry-run]
# Reads PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME. Exit code 1 if anything is wrong.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
parse "$@"
need PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME
service=tpu.googleapis.com
if [ "$API" = compute ]; then service=compute.googleapis.com; fi
probe=gs://$BUCKET/$RUN_NAME/doctor

if [ "$DRY_RUN" = 1 ]; then
  run gcloud auth list --filter=status:ACTIVE '--format=value(account)'
  run gcloud services list --enabled --project="$PROJECT" --filter="config.name=$service" '--format=value(config.name)'
  run gcloud storage cp --quiet - "$probe"
  run gcloud storage rm --quiet "$probe"
  worker doctor
  exit
fi

wrong=0
# check NAME ADVICE COMMAND...: the command must succeed.
check() {
  local name=$1 advice=$2
  shift 2
  if "$@"; then
    echo "ok     $name"
  else
    echo "WRONG  $name: $advice"
    wrong=1
  fi
}
account() { [ -n "$(gcloud auth list --filter=status:ACTIVE '--format=value(account)' 2>/dev/null)" ]; }
enabled() {
  [ -n "$(gcloud services list --enabled --project="$PROJECT" --filter="config.name=$service" \
    '--format=value(config.name)' 2>/dev/null)" ]
}
writable() {
  echo test | gcloud storage cp --quiet - "$probe" >/dev/null 2>&1 && gcloud storage rm --quiet "$probe" >/dev/null 2>&1
}
all_say() { ! grep -qv "$1" <<<"$2"; }

check "signed in" "gcloud auth login" account
check "$service is enabled" "gcloud services enable $service --project=$PROJECT" enabled
check "gs://$BUCKET can be written from here" "make it in the TPU's region: gcloud storage buckets create" writable
report=''
if [ "$(state)" = ready ]; then report=$(worker doctor 2>/dev/null) || true; fi
if ! grep -q '^worker' <<<"$report"; then
  check "the workers answer" "create.sh and launch.sh first; then look at logs.sh" false
else
  lines() { grep "^worker [0-9]*: $1 " <<<"$report" || true; }
  same_code() { [ "$(lines code | sed 's/.* //' | sort -u | wc -l)" = 1 ]; }
  check "all workers have the same code" "launch.sh sends it anew" same_code
  check "the workers' account may use storage" "delete.sh, then create.sh: scopes are set there" \
    all_say 'scope ok$' "$(lines 'storage scope')"
  check "the workers can write gs://$BUCKET" "give their service account roles/storage.objectAdmin on it" \
    all_say 'write ok$' "$(lines 'bucket write')"
  ports=$(lines port)
  if [ -n "$ports" ]; then
    check "the coordinator's port is open" \
      "gcloud compute firewall-rules create allow-ecomgpt --allow=tcp:$COORDINATOR_PORT --source-ranges=10.0.0.0/8" \
      all_say ' ok$' "$ports"
  fi
  has_chips() { ! grep -q ' chips 0$' <<<"$report"; }
  check "every worker sees its chips" "the image or runtime version does not fit $TPU_TYPE" has_chips
fi
exit "$wrong"
