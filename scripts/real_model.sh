#!/usr/bin/env bash
# Tunes a real pretrained model on EcomInstruct with adapters and scores it, before and after, in each mode of answering.
# Usage: [ROWS=N] scripts/real_model.sh gemma3-270m|smollm2-135m DIR [further arguments of `python -m ecomgpt_jax.train`]
#   DIR/base    the pretrained model, from its package        DIR/run     the training
#   DIR/unseen  tasks that training never saw                  DIR/choice  their scores in each mode, and the best: answers.txt
#   DIR/scores  {base,tuned}-{free,constrained,likelihood}, and compare.md over the free ones
# The same command again goes on where it stopped. ROWS=N scores the first N rows of each task; without it all.
# The real sources and the official tasks are those of `python -m ecomgpt_jax.fetch`, or $ECOMGPT_SOURCES, $ECOMGPT_EVAL.

set -euo pipefail

usage() {
  echo "error: usage: [ROWS=N] scripts/real_model.sh gemma3-270m|smollm2-135m DIR [train arguments]" >&2
  exit 2
}
[ $# -ge 2 ] || usage
case $1 in
  gemma3-270m | smollm2-135m) model=$1 ;;
  *) usage ;;
esac
rows=${ROWS:-0}
[[ $rows =~ ^[0-9]+$ ]] || usage
folder=$(realpath -m -- "$2")
shift 2
. "$(dirname "$0")/env.sh" "[dev]"

if [ ! -e "$folder/base" ]; then
  rm -rf "$folder/base.partial"
  scripts/real_base.sh "$model" "$folder/base.partial"
  mv "$folder/base.partial" "$folder/base"
fi
(
  keep_memory
  exec "$PYTHON" -m ecomgpt_jax.train --config "configs/real_model.py:${model//-/_}" \
    --config.model.init_from="$folder/base" --workdir "$folder/run" "$@"
)

# The mode is chosen by tasks of the training sources, before any official answer is looked at.
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
for answers in free constrained likelihood; do
  "$PYTHON" -m ecomgpt_jax.evaluate --checkpoint "$folder/run" --tasks "$folder/unseen" --out "$folder/choice/$answers" \
    --answers "$answers" --dtype float32
done
"$PYTHON" - "$folder/choice" <<'EOF' | tee "$folder/choice/answers.txt"
import json, pathlib, sys

found = {}
for file in pathlib.Path(sys.argv[1]).glob("*/scores.json"):
    found[file.parent.name] = json.loads(file.read_text())["averages"]["All tasks"]["corrected"]["score"]
print("the mode of answering with the best corrected score on unseen tasks:", max(sorted(found), key=found.get), found)
EOF

for answers in free constrained likelihood; do
  for pair in base:base run:tuned; do
    "$PYTHON" -m ecomgpt_jax.evaluate --checkpoint "$folder/${pair%:*}" --out "$folder/scores/${pair#*:}-$answers" \
      --answers "$answers" --limit "$rows" --dtype float32
  done
done
"$PYTHON" -m ecomgpt_jax.compare "$folder/scores/base-free" "$folder/scores/tuned-free" --out "$folder/scores/compare.md"
