#!/usr/bin/env bash
# Start-up script of every worker (create.sh passes it on): root runs it at each boot. It installs what a run needs before
# its code arrives: a recent Python, through uv, in /opt/ecomgpt, and gcsfuse, which mounts the bucket for the workdir.
#
# Usage: bootstrap.sh [--dry-run]

set -euo pipefail
root=/opt/ecomgpt

run() {
  if [ "$dry_run" = 1 ]; then
    local words
    words=$(printf '%q ' "$@")
    printf '%s\n' "${words% }"
  else
    "$@"
  fi
}

dry_run=0
case ${1:-} in
  '') ;;
  --dry-run) dry_run=1 ;;
  *) sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0" && exit 2 ;;
esac
if [ "$dry_run" = 0 ] && [ -e "$root/ready" ]; then exit; fi

export DEBIAN_FRONTEND=noninteractive
run apt-get -o DPkg::Lock::Timeout=600 update -q
run apt-get -o DPkg::Lock::Timeout=600 install -qy python3-venv curl lsb-release
key=/usr/share/keyrings/cloud.google.asc
run curl -sSfo "$key" https://packages.cloud.google.com/apt/doc/apt-key.gpg
if [ "$dry_run" = 0 ]; then
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" \
    >/etc/apt/sources.list.d/gcsfuse.list
fi
run apt-get -o DPkg::Lock::Timeout=600 update -q
run apt-get -o DPkg::Lock::Timeout=600 install -qy gcsfuse
run mkdir -p "$root"
run python3 -m venv "$root/tools"
run "$root/tools/bin/pip" install --quiet uv
run env UV_PYTHON_INSTALL_DIR="$root/python" "$root/tools/bin/uv" venv --quiet --python 3.12 "$root/venv"
run chmod -R a+rwX "$root" # the run installs its dependencies as the user who launches it
run touch "$root/ready"
