#!/usr/bin/env bash
# Prints the last lines of the run's log on every worker, or the copies in the bucket, which stay after the TPU.
#
# Usage: logs.sh [--api tpu|compute] [--lines N] [--follow] [--stored] [--dry-run]
#   --lines   number of lines per worker (default 50)
#   --follow  keep printing new lines
#   --stored  from the bucket; at most a minute old
# Reads PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lines=50 follow='' stored=0
own_option() {
  case $1 in
    --lines) [ $# -gt 1 ] || die "$1 needs a number" ;;&
    --lines) lines=$2 TAKEN=2 ;;
    --follow) follow=1 TAKEN=1 ;;
    --stored) stored=1 TAKEN=1 ;;
  esac
}
parse "$@"
need PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME
number --lines "$lines"

if [ "$stored" = 1 ]; then
  run gcloud storage cat "gs://$BUCKET/$RUN_NAME/logs/*.log"
else
  on_workers "LINES_WANTED=$lines FOLLOW=$follow bash ~/ecomgpt/$RUN_NAME/worker.sh log $BUCKET $RUN_NAME"
fi
