#!/usr/bin/env bash
# Quantizes the bundled model in every scheme that compressed-tensors has and holds each checkpoint against transformers:
# it loads without a warning, and has the perplexity that laos says (check-compressed-tensors.py).
#   scripts/check-clients.sh [LAOS]      LAOS: the program (default build/release/laos)
# PYTHON names an interpreter with torch, transformers and compressed-tensors; without it that of build/clients is taken,
# which `scripts/check-clients.sh --install` makes. Ends with 77 where there is none.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
clients=$here/build/clients
if [[ ${1:-} == --install ]]; then
  [[ -e $clients/complete ]] && exit
  python3 -m venv "$clients"
  "$clients/bin/pip" install -q torch transformers compressed-tensors accelerate loguru
  touch "$clients/complete"
  exit
fi
laos=$(realpath "${1:-$here/build/release/laos}")
python=${PYTHON:-$clients/bin/python}
"$python" -c 'import accelerate, compressed_tensors, loguru, torch, transformers' 2>/dev/null || {
  echo "no torch, transformers and compressed-tensors: scripts/check-clients.sh --install"
  exit 77
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
made=()
for scheme in W8A8 W8A8-static W8A16 W4A16 W4A8 W4A4; do
  "$laos" quant --progress none --scheme "$scheme" --model-path "$here/models/qwen3-tiny" --save-path "$work/$scheme" \
    --dataset "$here/calib/qwen3-tiny-calib.jsonl" --nsamples 16 --lenient >"$work/log"
  made+=("$work/$scheme")
done
cd "$here"
"$python" scripts/check-compressed-tensors.py --laos "$laos" --windows 12 --no-engines "${made[@]}"
