# shellcheck shell=bash disable=SC2034
# Sourced by the scripts of this folder: options, names, the TPU's shape and state, commands on its workers.

set -euo pipefail
export LC_ALL=C
TPU_SETUP=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
COORDINATOR_PORT=8476 # in Google Cloud's default firewall rules for TPUs; jax's own choice, 8482, is not

API=${API:-tpu}
SPOT=${SPOT:-0}
DRY_RUN=0
ARGUMENTS=()

# die MESSAGE [EXIT_CODE]
die() {
  printf 'error: %s\n' "$1" >&2
  exit "${2:-2}"
}

say() { printf '%s\n' "$*" >&2; }

# Runs a command; under --dry-run prints it so that it can be pasted into a shell.
run() {
  if [ "$DRY_RUN" = 1 ]; then
    local words
    words=$(printf '%q ' "$@")
    printf '%s\n' "${words% }"
  else
    "$@"
  fi
}

# The comment at the top of a script is its help.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"; }

# A script with options of its own redefines this: it handles "$@" and sets TAKEN to the number of words it used.
own_option() { :; }

# parse "$@": the options that every script takes, then the script's own; what follows "--" goes into ARGUMENTS.
parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --api) API=${2:-} && shift $(($# > 1 ? 2 : 1)) ;;
      --api=*) API=${1#*=} && shift ;;
      --spot) SPOT=1 && shift ;;
      --dry-run) DRY_RUN=1 && shift ;;
      -h | --help) usage && exit 0 ;;
      --) shift && ARGUMENTS=("$@") && return ;;
      *)
        TAKEN=0
        own_option "$@"
        [ "$TAKEN" -gt 0 ] || die "$(printf 'unknown argument %q; try --help' "$1")"
        shift "$TAKEN"
        ;;
    esac
  done
}

# number NAME VALUE: refuses what is no whole number.
number() { [[ $2 =~ ^[0-9]{1,6}$ ]] || die "$(printf '%s=%q is no whole number' "$1" "$2")"; }

# need NAME...: these variables must be set. Whatever is set must be a plain name, used here or not.
need() {
  local name
  BUCKET=${BUCKET:-}
  BUCKET=${BUCKET#gs://}
  for name in PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME CLUSTER IMAGE_FAMILY RUNTIME_VERSION; do
    if [ -n "${!name:-}" ] && ! [[ ${!name} =~ ^[a-z][a-z0-9-]{0,61}$ ]]; then
      die "$(printf '%s=%q is not a name of a-z, 0-9 and -, starting with a letter, of at most 62' "$name" "${!name}")"
    fi
  done
  for name in "$@"; do
    [ -n "${!name:-}" ] || die "$name is not set; copy tpu_setup/env.example, fill it in and source it"
  done
  case $API in tpu | compute) ;; *) die "$(printf -- '--api %q is neither tpu nor compute' "$API")" ;; esac
  case $SPOT in 0 | 1) ;; *) die "$(printf 'SPOT=%q is neither 0 nor 1' "$SPOT")" ;; esac
  if [ "$DRY_RUN" = 0 ] && ! command -v gcloud >/dev/null; then
    die "gcloud is not installed; see https://cloud.google.com/sdk/docs/install" 66
  fi
  PLACE=(--project="$PROJECT" --zone="$ZONE")
  shape
  # The Cloud TPU API takes any type by name; Compute Engine wants machine and topology.
  if [ "$API" = compute ] && [ "$CHIPS" = 0 ]; then
    die "TPU_TYPE=$TPU_TYPE: no machine type is known for it; try v6e-16, v5p-8, tpu7x-8 or v5litepod-16"
  fi
  REGION=${ZONE%-*}
}

# Sets CHIPS, HOSTS, MACHINE and TOPOLOGY from TPU_TYPE; CHIPS=0 for a type that is not known here.
shape() {
  local size=${TPU_TYPE##*-} family torus=3d per_host=4
  CHIPS=0 HOSTS=0 MACHINE='' TOPOLOGY=''
  [[ $size =~ ^[0-9]{1,4}$ ]] || return 0
  case ${TPU_TYPE%-*} in
    v5litepod | v5e) family=ct5lp-hightpu torus=2d CHIPS=$size ;;
    v6e) family=ct6e-standard torus=2d CHIPS=$size ;;
    v4) family=ct4p-hightpu CHIPS=$((size / 2)) ;; # these three are named by cores, two a chip
    v5p) family=ct5p-hightpu CHIPS=$((size / 2)) ;;
    tpu7x) family=tpu7x-standard CHIPS=$((size / 2)) ;;
    *) return 0 ;;
  esac
  case $torus:$CHIPS in
    2d:1) TOPOLOGY=1x1 ;;
    2d:4) TOPOLOGY=2x2 ;;
    2d:8) TOPOLOGY=2x4 ;;
    2d:16) TOPOLOGY=4x4 ;;
    2d:32) TOPOLOGY=4x8 ;;
    2d:64) TOPOLOGY=8x8 ;;
    2d:128) TOPOLOGY=8x16 ;;
    2d:256) TOPOLOGY=16x16 ;;
    3d:4) TOPOLOGY=2x2x1 ;;
    3d:8) TOPOLOGY=2x2x2 ;;
    3d:16) TOPOLOGY=2x2x4 ;;
    3d:32) TOPOLOGY=2x4x4 ;;
    3d:64) TOPOLOGY=4x4x4 ;;
    3d:128) TOPOLOGY=4x4x8 ;;
    3d:256) TOPOLOGY=4x8x8 ;;
    *) CHIPS=0 && return 0 ;;
  esac
  if [ "$CHIPS" = 1 ] || [ "$TOPOLOGY" = 2x4 ]; then per_host=$CHIPS; fi
  HOSTS=$((CHIPS / per_host))
  MACHINE=$family-${per_host}t
}

# Asks for the state in the resource's own words.
describe() {
  if [ "$API" = tpu ]; then
    gcloud compute tpus queued-resources describe "$TPU_NAME" "${PLACE[@]}" --format='value(state.state)'
  elif [ "$HOSTS" -gt 1 ]; then
    gcloud compute instance-groups managed describe "$TPU_NAME" "${PLACE[@]}" --format='value(status.isStable)'
  else
    gcloud compute instances describe "$TPU_NAME" "${PLACE[@]}" --format='value(status)'
  fi
}

# Prints missing, creating, ready, preempted, suspended, failed, or unknown (no answer: nothing may be concluded).
state() {
  local answer said statuses
  said=$(mktemp)
  if ! answer=$(describe 2>"$said"); then
    if grep -qiE 'not[ _]?found' "$said"; then answer=NOT_FOUND; else answer='' && cat "$said" >&2; fi
  fi
  rm -f "$said"
  case $answer in
    True | False)
      # A group calls itself stable although Spot has taken a machine: ask each one.
      if ! statuses=$(gcloud compute instance-groups managed list-instances "$TPU_NAME" "${PLACE[@]}" \
        --format='value(instanceStatus)'); then
        answer=''
      elif grep -qE 'STOP|TERMINATED|SUSPEND' <<<"$statuses"; then
        answer=PREEMPTED
      elif [ "$(grep -c RUNNING <<<"$statuses")" = "$HOSTS" ]; then
        answer=READY
      else
        answer=CREATING
      fi
      ;;
  esac
  case $answer in
    ACTIVE | READY | RUNNING) echo ready ;;
    ACCEPTED | CREATING | PROVISIONING | STAGING | STARTING | WAITING_FOR_RESOURCES | REPAIRING | RESTARTING) echo creating ;;
    DELETING | SUSPENDING) echo creating ;; # on its way to another state: wait for it
    PREEMPTED | TERMINATED | STOPPED | STOPPING) echo preempted ;;
    SUSPENDED) echo suspended ;;
    FAILED) echo failed ;;
    NOT_FOUND) echo missing ;;
    *) echo unknown ;;
  esac
}

# Sets WORKERS to the machines' names (Compute Engine); placeholders under --dry-run.
find_workers() {
  WORKERS=("$TPU_NAME")
  [ "$HOSTS" -gt 1 ] || return 0
  local list=(gcloud compute instance-groups managed list-instances "$TPU_NAME" "${PLACE[@]}"
    '--format=value(instance.basename())') names index
  if [ "$DRY_RUN" = 1 ]; then
    run "${list[@]}"
    WORKERS=()
    for ((index = 0; index < HOSTS; index++)); do WORKERS+=("$TPU_NAME-HOST$index"); done
    return
  fi
  names=$("${list[@]}")
  mapfile -t WORKERS < <(sort <<<"$names")
}

# on_workers COMMAND: runs a shell command on every worker at once; fails if it fails on one.
on_workers() {
  local index jobs=() job failed=0 settings
  if [ "$API" = tpu ]; then
    run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${PLACE[@]}" --worker=all --quiet --command="$1"
    return
  fi
  find_workers
  for index in "${!WORKERS[@]}"; do
    # A Cloud TPU worker finds these in its metadata; a Compute Engine machine is told.
    settings="export PROCESS_ID=$index NUM_PROCESSES=${#WORKERS[@]} COORDINATOR=${WORKERS[0]}:$COORDINATOR_PORT; "
    if [ "$DRY_RUN" = 1 ]; then
      run gcloud compute ssh "${WORKERS[index]}" "${PLACE[@]}" --quiet --command="$settings$1"
    else
      gcloud compute ssh "${WORKERS[index]}" "${PLACE[@]}" --quiet --command="$settings$1" &
      jobs+=($!)
    fi
  done
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
  return "$failed"
}

# worker ACTION: runs one action of worker.sh on every worker.
worker() { on_workers "bash ~/ecomgpt/$RUN_NAME/worker.sh $1 $BUCKET $RUN_NAME"; }

# Whether process 0 has finished the run.
is_done() { [ "$(gcloud storage cat "gs://$BUCKET/$RUN_NAME/DONE" 2>/dev/null)" = "done" ]; }
