#!/usr/bin/env bash
# Starts the run on all workers of a TPU that is ready; it continues after the ssh session ends.
#
# Usage: launch.sh [--api tpu|compute] [--dry-run] [-- ARGUMENTS OF python -m ecomgpt_jax.train]
# Example: launch.sh -- --config configs/bloomz_7b1.py --config.model.init_from=assets/bloomz-7b1 --config.mesh.fsdp=16
#
# With arguments: this code and these arguments become the run's (gs://BUCKET/RUN_NAME/code.tar.gz). Without: the run
# is started again unchanged. The content of gs://BUCKET/assets is at assets/ in the run's folder; assets/sources and
# assets/eval become ECOMGPT_SOURCES and ECOMGPT_EVAL. A worker that runs already is not changed.
# Reads PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
parse "$@"
need PROJECT ZONE TPU_NAME TPU_TYPE BUCKET RUN_NAME
remote=gs://$BUCKET/$RUN_NAME

if [ ${#ARGUMENTS[@]} -gt 0 ]; then
  for argument in "${ARGUMENTS[@]}"; do
    case $argument in
      --workdir* | --resume* | --coordinator* | --num_processes* | --process_id*)
        die "$(printf '%q is set by launch.sh; leave it out' "$argument")"
        ;;
    esac
  done
  if [ "$DRY_RUN" = 1 ]; then
    printf 'python -m ecomgpt_jax.train'
    printf ' %q' --workdir bucket/workdir --resume auto "${ARGUMENTS[@]}"
    echo
    run gcloud storage cp --quiet CODE.tar.gz "$remote/code.tar.gz"
    run gcloud storage rm --quiet "$remote/DONE"
  else
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    { printf 'set --' && printf ' %q' "${ARGUMENTS[@]}" && echo; } >"$scratch/train_arguments.sh"
    # No times and owners in it: the same code and arguments give the same bytes, which doctor.sh compares. Most of it
    # are weights, which a higher level of gzip shrinks by no more than 2 %.
    tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --exclude=__pycache__ \
      -C "$TPU_SETUP/.." ecomgpt_jax configs tpu_setup setup.py pyproject.toml README.md -C "$scratch" \
      train_arguments.sh | gzip -n1 >"$scratch/code.tar.gz"
    gcloud storage cp --quiet "$scratch/code.tar.gz" "$remote/code.tar.gz"
    gcloud storage rm --quiet "$remote/DONE" 2>/dev/null || true # a finished run that is given new work is not done
  fi
fi
on_workers "mkdir -p ~/ecomgpt/$RUN_NAME && cd ~/ecomgpt/$RUN_NAME &&\
 gcloud storage cp --quiet $remote/code.tar.gz code.tar.gz &&\
 tar -xzf code.tar.gz -O tpu_setup/worker.sh >worker.sh && bash worker.sh start $BUCKET $RUN_NAME"
