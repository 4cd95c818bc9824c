#!/usr/bin/env bash
# Tunes a real pretrained model on EcomInstruct with adapters, for one or more lengths, and scores it before and after.
# Usage: [STEPS="50 200 800"] [ROWS=N] scripts/real_model.sh gemma3-270m|smollm2-135m DIR [arguments of ecomgpt_jax.train]
#   DIR/base     the pretrained model, from its package
#   DIR/run-N    the training of N steps
#   DIR/adapter-N  adapters of the longest training as files of `peft`, bfloat16
#   DIR/unseen   tasks that are not trained on
#   DIR/curve    their scores and losses before training and after N steps; curve.md compares first and last
#   DIR/choice   their scores in each mode of answering after the longest training, and the best mode: answers.txt
#   DIR/scores   official tasks, for SmolLM2 the English ones: {base,tuned}-{free,constrained,likelihood}, and the tuned
#                model's answers in the best mode against-{base,majority,random,copy}.md
# Each length, a multiple of 5 from 20, warms up over 16 steps, decays over its last fifth, and continues from the last
# step of the previous length at the full rate; this also holds for a later call with more STEPS. The same command again
# continues where it stopped; only one can run in DIR at a time. ROWS=N scores the first N rows of each official task, the
# default is all. The real sources and the official tasks are those of `python -m ecomgpt_jax.fetch`, or
# $ECOMGPT_SOURCES and $ECOMGPT_EVAL. On a CPU with AMX --config.model.compute_dtype=bfloat16 takes less than half the time.

set -euo pipefail

usage() {
  echo "error: usage: [STEPS='50 200 800'] [ROWS=N] scripts/real_model.sh gemma3-270m|smollm2-135m DIR [train arguments]" >&2
  exit 2
}
[ $# -ge 2 ] || usage
case $1 in
  gemma3-270m) model=$1 hub=google/gemma-3-270m only='*' ;;
  smollm2-135m) model=$1 hub=HuggingFaceTB/SmolLM2-135M-Instruct only='EN-*' ;; # the language of base and training
  *) usage ;;
esac
rows=${ROWS:-0}
[[ $rows =~ ^[0-9]+$ ]] || usage
read -ra steps <<<"${STEPS:-50 200 800}"
last=0
for count in "${steps[@]}"; do
  if ! [[ $count =~ ^[1-9][0-9]*$ ]] || ((count <= last || count % 5 || count < 20)); then
    echo "error: STEPS=${steps[*]}: needs rising multiples of 5, from 20" >&2
    exit 2
  fi
  last=$count
done
folder=$(realpath -m -- "$2")
shift 2
dtype=float32
for argument in "$@"; do
  case $argument in --config.model.compute_dtype=*) dtype=${argument#*=} ;; esac
done
. "$(dirname "$0")/env.sh" "[dev]"

mkdir -p "$folder"
exec 9>>"$folder/.lock" # inherited by all processes that work in the folder
if ! flock -n 9; then
  echo "error: $folder: another real_model.sh runs here; wait for it, or use another DIR" >&2
  exit 74
fi

if [ ! -e "$folder/base" ]; then
  rm -rf "$folder/base.partial"
  scripts/real_base.sh "$model" "$folder/base.partial"
  mv "$folder/base.partial" "$folder/base"
fi

before=
for count in "${steps[@]}"; do
  run=$folder/run-$count
  if [ -n "$before" ] && [ ! -e "$run" ]; then
    rm -rf "$run.partial"
    mkdir -p "$run.partial/checkpoints"
    cp -r "$folder/run-$before/checkpoints/$((before * 4 / 5))" "$run.partial/checkpoints/"
    mv "$run.partial" "$run"
  fi
  # The step at four fifths must be saved, so the interval is the largest divisor of a fifth from 10 to 40, or the fifth.
  every=$((count / 5))
  for divisor in {40..10}; do
    if ((every % divisor == 0)); then
      every=$divisor
      break
    fi
  done
  kept=$((count / 5 / every + 1))
  (
    keep_memory
    exec "$PYTHON" -m ecomgpt_jax.train --config "configs/real_model.py:${model//-/_}" --workdir "$run" \
      --config.model.init_from="$folder/base" --config.train.max_steps="$count" \
      --config.optimizer.warmup_fraction="$("$PYTHON" -c "print(16 / $count)")" \
      --config.train.save_every="$every" --config.train.keep="$((kept > 20 ? kept : 20))" "$@" \
      --allow_drift=total_steps,train.max_steps,optimizer.warmup_fraction
  )
  before=$count
done

if [ ! -e "$folder/adapter-$last" ]; then
  "$PYTHON" -m ecomgpt_jax.convert --from "$folder/run-$last" --to "$folder/adapter-$last" --format peft --dtype bfloat16 \
    --base "$hub"
fi

if [ ! -e "$folder/unseen" ]; then
  rm -rf "$folder/unseen.partial"
  settings=()
  for argument in "$@"; do
    case $argument in --config.*) settings+=("$argument") ;; esac
  done
  "$PYTHON" -m ecomgpt_jax.build_data --config "configs/real_model.py:${model//-/_}" --unseen "$folder/unseen.partial" \
    "${settings[@]}"
  mv "$folder/unseen.partial" "$folder/unseen"
fi

evaluate() {
  "$PYTHON" -m ecomgpt_jax.evaluate --dtype "$dtype" "$@"
}

# The mode is selected on tasks of the training sources, before any official score is computed.
evaluate --checkpoint "$folder/base" --tasks "$folder/unseen" --out "$folder/curve/0" --answer_loss
for count in "${steps[@]}"; do
  evaluate --checkpoint "$folder/run-$count" --tasks "$folder/unseen" --out "$folder/curve/$count" --answer_loss
done
"$PYTHON" -m ecomgpt_jax.compare "$folder/curve/$last" "$folder/curve/0" --tasks "$folder/unseen" --out "$folder/curve.md"
mkdir -p "$folder/choice"
ln -sfn "../curve/$last" "$folder/choice/free"
for answers in constrained likelihood; do
  evaluate --checkpoint "$folder/run-$last" --tasks "$folder/unseen" --out "$folder/choice/$answers" --answers "$answers"
done
"$PYTHON" - "$folder/choice" <<'PYTHON' >"$folder/choice/answers.txt"
import json, pathlib, sys

found = {}
for file in pathlib.Path(sys.argv[1]).glob("*/scores.json"):
    found[file.parent.name] = json.loads(file.read_text())["averages"]["All tasks"]["corrected"]["score"]
print(max(sorted(found), key=found.get), found, sep="\n")
PYTHON
read -r best <"$folder/choice/answers.txt"
echo "the mode of answering with the best corrected score on unseen tasks: $(paste -s "$folder/choice/answers.txt")"

for answers in free constrained likelihood; do
  for pair in base:base "run-$last:tuned"; do
    evaluate --checkpoint "$folder/${pair%:*}" --out "$folder/scores/${pair#*:}-$answers" --answers "$answers" --limit "$rows" \
      --only "$only"
  done
done
for other in base majority random copy; do
  against=$other
  [ "$other" = base ] && against=$folder/scores/base-$best
  "$PYTHON" -m ecomgpt_jax.compare "$folder/scores/tuned-$best" "$against" --out "$folder/scores/against-$other.md"
done
