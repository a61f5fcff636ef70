#!/usr/bin/env bash
# Holds the lists that `laos analyze` finds against others of the same budget, on the bundled model: which groups stay at
# 8 bits while the rest is W4A4. Prints the KL divergence from the float model on the evaluation text for each.
#   bench/analyze_lists.sh LAOS [RECIPE] [NUM_RANDOM]
# LAOS is the binary; RECIPE one of recipes/qwen3-tiny-w4a4*.yaml with one quantizer (default: -rotation, which rounds to
# nearest); NUM_RANDOM how many random lists (default 8). docs/analyze.md has what it gave.
set -euo pipefail
laos=$(realpath "$1")
cd "$(dirname "$0")/.."
base=recipes/${2:-qwen3-tiny-w4a4-rotation}.yaml
num_random=${3:-8}
model=models/qwen3-tiny
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
RANDOM=1

# KL of the checkpoint that a recipe makes.
kl_of() {
  "$laos" quant --model-path $model --model-type qwen3-tiny --save-path "$work/out" --config-path "$1" \
    --dataset calib/qwen3-tiny-calib.jsonl --no-health >/dev/null 2>&1
  "$laos" eval --model-path "$work/out" --baseline $model --text models/qwen3-tiny-eval.txt --seq-len 256 |
    sed -n 's/^KL from baseline *\([0-9.]*\).*/\1/p'
}

# The base recipe where the linears that match the patterns of $1 are W8A8, those of $2 W4A4 and the rest W8A8.
recipe_of() {
  awk -v high="$1" -v low="$2" '
    /^ *strategies:/ { print; indent = match($0, /[^ ]/) + 1; pad = sprintf("%" indent "s", "")
      if (high != "") print pad "- {qconfig: *w8a8_dynamic, include: [" high "]}"
      print pad "- {qconfig: *w4a4_dynamic, include: [" low "]}"
      print pad "- {qconfig: *w8a8_dynamic, include: [\"model.layers.*\"]}"
      skip = 1; next }
    skip && /^  [a-z]/ { skip = 0 }
    !skip { print }' "$base" >"$work/list.yaml"
}

line() { printf '%-64s %s\n' "$1" "$2"; }
shuffled() { for item in "$@"; do echo "$((RANDOM * 32768 + RANDOM)) $item"; done | sort -n | cut -d' ' -f2; }
path_of() {
  case $1 in
    qkv) echo 'self_attn.{q,k,v}_proj' ;; o) echo 'self_attn.o_proj' ;;
    gate_up) echo 'mlp.{gate,up}_proj' ;; down) echo 'mlp.down_proj' ;;
  esac
}

echo "base recipe: $base"
echo "== half of the linear weights W4A4, as in qwen3-tiny-w4a4.yaml"
line "every gate_proj and up_proj W4A4 (the published scheme)" "$(kl_of "$base")"
recipe_of '"model.layers.{0,1,6,7}.*"' '"model.layers.*"'
line "first two and last two layers W8A8" "$(kl_of "$work/list.yaml")"
# Random lists of groups: 48 units are all weights, a group is 4 (qkv), 2 (o), 12 (gate_up) or 6 (down) of a layer's 24;
# as many stay W8A8 as fit into half.
for ((i = 1; i <= num_random; i++)); do
  used=0 patterns=
  for group in $(shuffled {0..7}:qkv:4 {0..7}:o:2 {0..7}:gate_up:12 {0..7}:down:6); do
    IFS=: read -r layer name size <<<"$group"
    ((used + size <= 96)) || continue
    used=$((used + size))
    patterns+="${patterns:+, }\"model.layers.$layer.$(path_of "$name")\""
  done
  recipe_of "$patterns" '"model.layers.*"'
  line "random list $i ($((100 - 100 * used / 192)) % W4A4)" "$(kl_of "$work/list.yaml")"
done
for flag in "" --kl; do
  "$laos" analyze $flag --model-path $model --config-path "$base" --w4a4-share 0.5 --write-recipe "$work/found.yaml" >/dev/null 2>&1
  line "laos analyze $flag --w4a4-share 0.5" "$(kl_of "$work/found.yaml")"
done

echo "== gate_proj and up_proj W4A4 in five layers of eight, all else W8A8"
for keep in 0,1,7 0,6,7; do
  recipe_of "\"model.layers.{$keep}.mlp.{gate,up}_proj\"" '"*.gate_proj", "*.up_proj"'
  line "layers $keep (first and last) W8A8" "$(kl_of "$work/list.yaml")"
done
for ((i = 1; i <= num_random; i++)); do
  keep=$(shuffled {0..7} | head -n 3 | sort | paste -sd,)
  recipe_of "\"model.layers.{$keep}.mlp.{gate,up}_proj\"" '"*.gate_proj", "*.up_proj"'
  line "random: layers $keep W8A8" "$(kl_of "$work/list.yaml")"
done
for flag in "" --kl; do
  "$laos" analyze $flag --groups gate_up --model-path $model --config-path "$base" --w4a4-share 0.3125 --json \
    --write-recipe "$work/found.yaml" >"$work/found.json" 2>/dev/null
  line "laos analyze $flag --groups gate_up --w4a4-share 0.3125" "$(kl_of "$work/found.yaml")"
done
