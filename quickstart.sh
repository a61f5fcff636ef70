#!/usr/bin/env bash
# From nothing to a quantized model: installs what is missing, builds laos, quantizes the bundled model in
# three ways and prints how good each is. Writes to build/ and out/quickstart/.
set -euo pipefail
cd "$(dirname "$0")"
scripts/install-dependencies.sh
cmake --preset release -DLAOS_TESTS=OFF -DLAOS_BENCH=OFF >/dev/null
cmake --build --preset release
laos=build/release/laos
out=out/quickstart
text=models/qwen3-tiny-eval.txt
model=models/qwen3-tiny
rm -rf "$out"
mkdir -p "$out"

declare -A title=([rtn]="W4A4 round to nearest" [rotation]="W4A4 rotation only" [laos]="W4A4 LAOS, 400 iterations")
declare -A recipe=([rtn]=qwen3-tiny-w4a4-rtn [rotation]=qwen3-tiny-w4a4-rotation [laos]=qwen3-tiny-w4a4)
field() { sed -n "s/^$1 *//p" "$2" | head -n 1; }

rows=()
float=$($laos eval --model-path $model --text $text --seq-len 256 | sed -n 's/^perplexity \([0-9.]*\).*/\1/p')
rows+=("$(printf '%-26s %10s %9s %9s %8s %9s' 'float (bf16)' "$float" - "$(stat -c %s $model/model.safetensors | awk '{printf "%.1f MB", $1/1e6}')" - -)")
for way in rtn rotation laos; do
  echo "--- ${title[$way]}"
  $laos quant --model-path $model --model-type qwen3-tiny --save-path "$out/$way" --config-path "recipes/${recipe[$way]}.yaml" >"$out/$way.log"
  $laos eval --model-path "$out/$way" --baseline $model --text $text --seq-len 256 >"$out/$way.eval"
  rows+=("$(printf '%-26s %10s %9s %9s %8s %9s' "${title[$way]}" \
    "$(sed -n 's/^perplexity *\([0-9.]*\).*/\1/p' "$out/$way.eval")" \
    "$(sed -n 's/^KL from baseline *\([0-9.]*\).*/\1/p' "$out/$way.eval")" \
    "$(field size "$out/$way.log")" "$(field time "$out/$way.log" | sed 's/ s .*/ s/')" "$(field 'peak RSS' "$out/$way.log")")")
done
echo
$laos inspect "$out/laos"
echo
printf '%-26s %10s %9s %9s %8s %9s\n' 'bundled model, eval text' perplexity KL size time 'peak RSS'
printf '%s\n' "${rows[@]}"
