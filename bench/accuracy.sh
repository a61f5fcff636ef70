#!/usr/bin/env bash
# Quantizes the bundled model by every method that laos has and measures the results on text the model never saw.
#   bench/accuracy.sh LAOS [NAME ...]
# LAOS is the program; NAMEs choose rows (see `row` below), default all: about 15 minutes on 2 cores. Prints the table
# of docs/accuracy.md, and writes the points of its plot to accuracy.tsv and the plot to accuracy.svg in $OUT
# (default: out/accuracy).
set -euo pipefail
laos=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
out=${OUT:-out/accuracy}
text=models/qwen3-tiny-eval.txt
model=models/qwen3-tiny
mkdir -p "$out"
names=("$@")

wanted() {
  ((${#names[@]} == 0)) && return 0
  local name
  for name in "${names[@]}"; do [[ $name == "$1" ]] && return 0; done
  return 1
}
# First line of a log that begins with $1, from its second word on.
field() { sed -n "s/^$1 *//p" "$2" | head -n 1; }
number() { sed -n "s/^ *\"$1\": \([-0-9.e]*\).*/\1/p" "$2" | head -n 1; }

: >"$out/accuracy.tsv"
echo '| method | scheme | perplexity | KL | top-1 | TFLOP | time | peak RSS |'
echo '|---|---|---|---|---|---|---|---|'
# row NAME SCHEME METHOD RECIPE [SED]: quantizes by recipes/RECIPE.yaml, changed by the sed expression.
row() {
  local name=$1 scheme=$2 method=$3 recipe=$4 change=${5:-}
  wanted "$name" || return 0
  sed -E "$change" "recipes/$recipe.yaml" >"$out/$name.yaml"
  rm -rf "${out:?}/$name"
  "$laos" quant --model-path $model --model-type qwen3-tiny --save-path "$out/$name" --config-path "$out/$name.yaml" \
    --dataset calib/qwen3-tiny-calib.jsonl >"$out/$name.log" 2>/dev/null
  "$laos" eval --model-path "$out/$name" --baseline $model --text $text --seq-len 256 --json >"$out/$name.json"
  local tflop
  tflop=$("$laos" quant --model-path $model --model-type qwen3-tiny --save-path "$out/$name-plan" --dry-run \
    --config-path "$out/$name.yaml" --dataset calib/qwen3-tiny-calib.jsonl |
    sed -n 's/^time .*(\([0-9.]*\) \([GT]\)FLOP.*/\1 \2/p' | awk '{print ($2 == "G") ? $1 / 1000 : $1}')
  local json=$out/$name.json
  printf '| %s | %s | %.4f | %.5f ± %.5f | %.4f | %.2f | %s | %s |\n' "$method" "$scheme" \
    "$(number perplexity "$json")" "$(number mean "$json")" "$(number stderr "$json")" \
    "$(number top1_agreement "$json")" "$tflop" "$(field time "$out/$name.log" | sed 's/ s .*/ s/')" \
    "$(field 'peak RSS' "$out/$name.log")"
  printf '%s\t%s\t%s\t%s\n' "$scheme" "$method" "$tflop" "$(number mean "$json")" >>"$out/accuracy.tsv"
}

hadamard='/^  prior:/,/stage: 1/d; s/adapt_rotation, stage: 2/quarot/'
published='s/objective: token_range, max_samples: 8192/steps: 20, layer_type: [up_proj]/'

row rtn published 'round to nearest, no rotation' qwen3-tiny-w4a4-rtn
row rotation published 'published rotation, round to nearest' qwen3-tiny-w4a4-rotation
row range-rtn published 'rotation by token range, round to nearest' qwen3-tiny-w4a4-rotation \
  's/stage: 1, .*}/stage: 1, objective: token_range, max_samples: 8192}/'
row laos published 'LAOS as published, 400 iterations' qwen3-tiny-w4a4
row auto published 'the same, `iters: auto`' qwen3-tiny-w4a4 's/iters: 400/iters: auto/'
row gptq-hadamard published 'Hadamard rotation, GPTQ, refined' qwen3-tiny-w4a4-fast "$hadamard"
row gptq-published published 'published rotation, GPTQ, refined' qwen3-tiny-w4a4-fast "$published"
row fast published '`--fast`: rotation by token range, GPTQ, refined' qwen3-tiny-w4a4-fast
row range-laos published 'rotation by token range, AutoRound, 100 iterations' qwen3-tiny-w4a4 \
  's/stage: 1, .*}/stage: 1, objective: token_range, max_samples: 8192}/; s/iters: 400/iters: 100/'
row range-laos-int4 published 'the same, only 4-bit linears trained' qwen3-tiny-w4a4 \
  's/stage: 1, .*}/stage: 1, objective: token_range, max_samples: 8192}/; s/iters: 400/iters: 100\n      train: [int4]/'
row balanced-hadamard 'all but `down_proj`' 'Hadamard rotation, heads fitted, smoothed, GPTQ, refined' qwen3-tiny-w4a4-balanced "$hadamard"
row balanced 'all but `down_proj`' '`--balanced`: rotations fitted, smoothed, GPTQ, refined' qwen3-tiny-w4a4-balanced
row full-laos every 'LAOS as published, 400 iterations' qwen3-tiny-w4a4-full-autoround
row full-hadamard every 'Hadamard rotation, heads fitted, smoothed, GPTQ, `down_proj` refitted' qwen3-tiny-w4a4-full-solved "$hadamard"
row full-no-refit every 'rotations fitted, smoothed, GPTQ' qwen3-tiny-w4a4-full-solved '/refit: true/d'
row full-solved every 'rotations fitted, smoothed, GPTQ, `down_proj` refitted' qwen3-tiny-w4a4-full-solved
row full every '`--full`: rotations fitted, smoothed, AutoRound on quantized activations, 74 iterations' qwen3-tiny-w4a4-full

# KL against operations, both logarithmic; one colour a scheme.
awk -F '\t' '
  function x(v) { return 70 + 560 * (log(v) - log(0.005)) / (log(300) - log(0.005)) }
  function y(v) { return 350 - 310 * (log(v) - log(0.005)) / (log(0.2) - log(0.005)) }
  function clean(s) { gsub(/`/, "", s); gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s); return s }
  BEGIN {
    print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 660 430\" font-family=\"sans-serif\" font-size=\"11\">"
    print "<rect width=\"660\" height=\"430\" fill=\"white\"/>"
    split("0.01 0.1 1 10 100", xs, " "); split("0.005 0.01 0.02 0.05 0.1 0.2", ys, " ")
    for (i = 1; i <= 5; i++) printf "<path d=\"M%.1f 40V350\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"366\" text-anchor=\"middle\">%s</text>\n", x(xs[i]), x(xs[i]), xs[i]
    for (i = 1; i <= 6; i++) printf "<path d=\"M70 %.1fH630\" stroke=\"#ddd\"/><text x=\"64\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", y(ys[i]), y(ys[i]) + 4, ys[i]
    print "<text x=\"350\" y=\"384\" text-anchor=\"middle\">operations, TFLOP</text>"
    print "<text x=\"70\" y=\"28\">KL from the float model, nats per token</text>"
    colour["published"] = "#1b6ca8"; colour["all but `down_proj`"] = "#c26a00"; colour["every"] = "#a4243b"
    n = split("published|all but `down_proj`|every", order, "|")
    for (i = 1; i <= n; i++) printf "<circle cx=\"%d\" cy=\"408\" r=\"5\" fill=\"%s\"/><text x=\"%d\" y=\"412\">%s W4A4</text>\n", 80 + 190 * (i - 1), colour[order[i]], 90 + 190 * (i - 1), order[i] == "published" ? "gate, up" : (order[i] == "every" ? "every linear" : clean(order[i]))
  }
  {
    flops = $3 < 0.005 ? 0.005 : $3
    printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%d\" fill=\"%s\"><title>%s: %s TFLOP, KL %s</title></circle>\n", x(flops), y($4), $2 ~ /--/ ? 7 : 4, colour[$1], clean($2), $3, $4
    if ($2 ~ /--/) { split(clean($2), part, ":"); printf "<text x=\"%.1f\" y=\"%.1f\">%s</text>\n", x(flops) + 10, y($4) + 4, part[1] }
    if ($2 ~ /published, 400/) printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">LAOS, 400 iterations</text>\n", x(flops) - 8, y($4) - 8
  }
  END { print "</svg>" }' "$out/accuracy.tsv" >"$out/accuracy.svg"
