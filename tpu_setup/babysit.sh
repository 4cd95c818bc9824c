#!/usr/bin/env bash
# Keeps a run going until it is done: creates the TPU if it is missing, deletes and recreates it after a preemption, and
# restarts the run if it ended early. The run's name, code and arguments stay those of the last launch.sh.
#
# Usage: babysit.sh [--api tpu|compute] [--spot] [--interval SECONDS] [--max-tries N] [--dry-run]
#   --interval   between checks (default 60); doubles with each unsuccessful try in a row, up to ten minutes
#   --max-tries  unsuccessful tries in a row before it gives up (default 20)
# Exit codes: 0 the run is done; 2, 65, 66 the run's own configuration, data or input is wrong; 74 gave up.
# Reads PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
interval=60 max_tries=20
own_option() {
  case $1 in
    --interval | --max-tries) [ $# -gt 1 ] || die "$1 needs a number" ;;&
    --interval) interval=$2 TAKEN=2 ;;
    --max-tries) max_tries=$2 TAKEN=2 ;;
  esac
}
parse "$@"
need PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME
number --interval "$interval"
number --max-tries "$max_tries"
export PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME API SPOT

if [ "$DRY_RUN" = 1 ]; then
  for script in "create.sh" "launch.sh" "delete.sh"; do
    echo "# $script"
    "$TPU_SETUP/$script" --dry-run
  done
  exit
fi

tries=0
# attempt WORDS: counts a step that may be unsuccessful; gives up after too many in a row.
attempt() {
  tries=$((tries + 1))
  say "$(date -u +%FT%TZ) $RUN_NAME: $*"
  [ "$tries" -le "$max_tries" ] || die "$RUN_NAME: gave up after $max_tries tries in a row; see logs.sh --stored" 74
}

# Checks the processes of a TPU that is ready, and restarts them if needed.
care() {
  local report code
  report=$(worker status) || report=''
  code=$(sed -n 's/^worker [0-9]*: ended \(2\|65\|66\)$/\1/p' <<<"$report" | head -n 1)
  if [ -n "$code" ]; then
    die "$RUN_NAME: ended with exit code $code; starting it again would not help, see logs.sh" "$code"
  elif grep -q ': running$' <<<"$report"; then
    # Workers that ended with 0 wait for the others; if one failed, the whole run must be restarted.
    if grep -qE ': ended( [1-9][0-9]*)?$' <<<"$report"; then
      attempt "a worker fell out; starting all again"
      worker stop || true
      "$TPU_SETUP/launch.sh" || true
    else
      tries=0
    fi
  else
    attempt "not running; starting it"
    "$TPU_SETUP/launch.sh" || true
  fi
}

while ! is_done; do
  now=$(state)
  case $now in
    ready) care ;;
    creating) say "$(date -u +%FT%TZ) $TPU_NAME: waiting for it" ;;
    missing)
      attempt "$TPU_NAME is missing; creating it"
      "$TPU_SETUP/create.sh" || true
      ;;
    preempted | suspended | failed)
      attempt "$TPU_NAME is $now; deleting what is left"
      "$TPU_SETUP/delete.sh" --yes || true
      ;;
    *) attempt "$TPU_NAME: no answer about its state" ;;
  esac
  pause=$((interval << (tries > 10 ? 10 : tries)))
  sleep $((pause < 600 ? pause : interval > 600 ? interval : 600))
done
say "$(date -u +%FT%TZ) $RUN_NAME: done; results in gs://$BUCKET/$RUN_NAME/workdir. The TPU still costs: delete.sh"
