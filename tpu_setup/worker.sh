#!/usr/bin/env bash
# Runs on the workers, where launch.sh copies it: one run at a time, detached from the ssh session.
#
# Usage: worker.sh start|run|stop|status|log|doctor BUCKET RUN_NAME
# Reads PROCESS_ID NUM_PROCESSES COORDINATOR (default: from the metadata of a Cloud TPU worker), and
# ECOMGPT_PYTHON, a Python with all dependencies (default: /opt/ecomgpt/venv, where they are installed).

set -euo pipefail
if [ $# != 3 ]; then sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0" && exit 2; fi
action=$1 bucket=$2 run_name=$3
base=$HOME/ecomgpt
home=$base/$run_name
remote=gs://$bucket/$run_name

metadata() {
  curl -sf -m 2 -H 'Metadata-Flavor: Google' "http://metadata.google.internal/computeMetadata/v1/instance/$1" || true
}

if [ -z "${PROCESS_ID:-}" ]; then
  PROCESS_ID=$(metadata attributes/agent-worker-number)
  PROCESS_ID=${PROCESS_ID:-0}
  endpoints=$(metadata attributes/worker-network-endpoints) # id:port:address,id:port:address,...
  NUM_PROCESSES=$(awk -F, '{print NF ? NF : 1}' <<<"$endpoints")
  COORDINATOR=$(cut -d, -f1 <<<"$endpoints" | cut -d: -f3):8476
fi
export PROCESS_ID NUM_PROCESSES COORDINATOR

is_running() { ! flock -n "$home/lock" true; }

start() {
  # The descriptor stays open in this script's `run` alone: the lock falls when it ends, however it ends.
  exec 9>>"$home/lock"
  if ! flock -n 9; then
    echo "worker $PROCESS_ID: already running"
    return
  fi
  # What an earlier run left behind (it was killed, its training or a child of that was not) would hold the chips.
  if [ -e "$home/pid" ]; then pkill -KILL -g "$(cat "$home/pid")" -f ecomgpt_jax || true; fi
  rm -rf "$home/code" "$home/exit_code"
  mkdir "$home/code"
  tar -xzf "$home/code.tar.gz" -C "$home/code"
  setsid nohup bash "$home/code/tpu_setup/worker.sh" run "$bucket" "$run_name" </dev/null >>"$home/log" 2>&1 &
  echo $! >"$home/pid"
  echo "worker $PROCESS_ID: started"
}

prepare() {
  local waited=0 marker
  if [ -n "$(gcloud storage ls "gs://$bucket/assets" 2>/dev/null)" ]; then
    mkdir -p "$base/assets"
    gcloud storage rsync -r "gs://$bucket/assets" "$base/assets" >/dev/null
    ln -sfn "$base/assets" "$home/code/assets"
    if [ -d assets/sources ]; then export ECOMGPT_SOURCES=$base/assets/sources; fi
    if [ -d assets/eval ]; then export ECOMGPT_EVAL=$base/assets/eval; fi
  fi
  PYTHON=${ECOMGPT_PYTHON:-}
  if [ -n "$PYTHON" ]; then return; fi
  until [ -e /opt/ecomgpt/ready ]; do
    if [ "$waited" -ge 900 ]; then
      echo "error: bootstrap.sh has not finished in 15 minutes; see: journalctl -u google-startup-scripts" >&2
      return 74
    fi
    sleep 5
    waited=$((waited + 5))
  done
  PYTHON=/opt/ecomgpt/venv/bin/python
  marker=/opt/ecomgpt/installed-$(cksum <setup.py | cut -d' ' -f1)
  if [ ! -e "$marker" ]; then
    /opt/ecomgpt/tools/bin/uv pip install --quiet --python "$PYTHON" --editable '.[tpu]'
    touch "$marker"
  fi
}

# The workdir lies in the bucket, mounted: all processes write one checkpoint. Nothing is cached, so that each sees at once
# what another wrote; a half renamed checkpoint lacks its manifest, and the run goes on from the one before.
mount_bucket() {
  mkdir -p "$home/bucket"
  if ! mountpoint -q "$home/bucket"; then
    gcsfuse --implicit-dirs --rename-dir-limit=1000000 --metadata-cache-ttl-secs=0 --only-dir="$run_name" "$bucket" \
      "$home/bucket" 9>&-
  fi
}

train() {
  set --
  # shellcheck source=/dev/null
  . "$home/code/train_arguments.sh"
  if [ "${NUM_PROCESSES:-1}" -gt 1 ]; then
    set -- "$@" --coordinator="$COORDINATOR" --num_processes="$NUM_PROCESSES" --process_id="$PROCESS_ID" \
      --join_timeout=1800
  fi
  "$PYTHON" -m ecomgpt_jax.train --workdir "$home/bucket/workdir" --resume auto "$@"
}

upload_log() { gcloud storage cp --quiet "$home/log" "$remote/logs/worker-$PROCESS_ID.log" >/dev/null 2>&1 || true; }

run_here() {
  local code=0 uploader
  trap : TERM # the training gets it too, saves itself and ends; only then is the lock given back
  cd "$home/code"
  (while sleep 60; do upload_log; done) 9>&- & # without the lock, which its sleep would outlive the run with
  uploader=$!
  echo "=== $(date -u +%FT%TZ) worker $PROCESS_ID of ${NUM_PROCESSES:-1}, code $(sha256sum <"$home/code.tar.gz" | cut -c1-12)"
  prepare || code=$?
  if [ "$code" = 0 ]; then mount_bucket || code=74; fi
  if [ "$code" = 0 ]; then train 9>&- || code=$?; fi
  echo "=== $(date -u +%FT%TZ) exit code $code"
  kill "$uploader"
  upload_log
  if [ "$code" = 0 ] && [ "$PROCESS_ID" = 0 ]; then echo 'done' | gcloud storage cp --quiet - "$remote/DONE"; fi
  echo "$code" >"$home/exit_code"
}

stop() {
  local waited=0
  if [ -e "$home/pid" ] && is_running; then
    kill -TERM -- "-$(cat "$home/pid")" 2>/dev/null || true
    while is_running && [ "$waited" -lt 30 ]; do sleep 1 && waited=$((waited + 1)); done
    if is_running; then kill -KILL -- "-$(cat "$home/pid")" 2>/dev/null || true; fi
  fi
  echo "worker $PROCESS_ID: stopped"
}

status() {
  if is_running; then
    echo "worker $PROCESS_ID: running"
  elif [ -e "$home/exit_code" ]; then
    echo "worker $PROCESS_ID: ended $(cat "$home/exit_code")"
  else
    echo "worker $PROCESS_ID: ended"
  fi
}

doctor() {
  local answer=missing
  echo "worker $PROCESS_ID: code $(sha256sum <"$home/code.tar.gz" | cut -c1-12)"
  if metadata service-accounts/default/scopes | grep -qE 'cloud-platform|devstorage.(read_write|full_control)'; then
    answer=ok
  fi
  echo "worker $PROCESS_ID: storage scope $answer"
  answer=failed
  if echo test | gcloud storage cp --quiet - "$remote/doctor-$PROCESS_ID" >/dev/null 2>&1 &&
    gcloud storage rm --quiet "$remote/doctor-$PROCESS_ID" >/dev/null 2>&1; then answer=ok; fi
  echo "worker $PROCESS_ID: bucket write $answer"
  if [ "${NUM_PROCESSES:-1}" -gt 1 ]; then
    # Refused means that the packet arrived and nobody listens yet; only silence is a firewall.
    answer=ok
    timeout 5 bash -c ": <>/dev/tcp/${COORDINATOR%:*}/${COORDINATOR##*:}" 2>/dev/null || if [ $? = 124 ]; then
      answer=blocked
    fi
    echo "worker $PROCESS_ID: port $COORDINATOR $answer"
  fi
  answer=$(find /dev -maxdepth 2 \( -name 'accel[0-9]*' -o -path '/dev/vfio/[0-9]*' \) 2>/dev/null | wc -l)
  echo "worker $PROCESS_ID: chips $answer"
}

mkdir -p "$home"
case $action in
  start | stop | status | doctor) "$action" ;;
  run) run_here ;;
  log) tail -n "${LINES_WANTED:-50}" ${FOLLOW:+-f} "$home/log" ;;
  *) echo "error: unknown action" >&2 && exit 2 ;;
esac
