#!/usr/bin/env bash
# How a job divides: the plan's prediction for a large model, and real runs of the bundled one.
#
#   ITERS=20 bench/scaling.sh BUILD_DIRECTORY
#
# The bundled model is quantized by one process and by 2 ranks of one thread each. Each rank's share of the processor
# time is shown beside the share that the plan predicts; processor time does not depend on what else the machine does.
set -euo pipefail
build=$(realpath "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

echo "== 64 layers of Qwen3-32B's shape, the published recipe"
"$build/bench/plan_scaling"

echo "== the bundled model, by 1 process and by 2 ranks"
sed "s/iters: 400/iters: ${ITERS:-20}/" "$root/recipes/qwen3-tiny-w4a4.yaml" >"$out/recipe.yaml"
arguments=(quant --no-health --model-type qwen3-tiny --model-path "$root/models/qwen3-tiny"
  --config-path "$out/recipe.yaml" --dataset "$root/calib/qwen3-tiny-calib.jsonl")
"$build/laos" "${arguments[@]}" --save-path "$out/dry" --dry-run --ranks 2 | sed -n '/^rank /,$p'
TIMEFORMAT='%U %S'
one=$({ time "$build/laos" "${arguments[@]}" --save-path "$out/one" >/dev/null 2>&1; } 2>&1 | awk '{print $1 + $2}')
mpirun --oversubscribe --bind-to none -n 2 "$build/laos" "${arguments[@]}" --save-path "$out/two" >/dev/null 2>&1
cmp "$out/one/SHA256SUMS" "$out/two/SHA256SUMS"
echo "same bytes"
grep -o '"cpu_seconds": [0-9.]*' "$out/two/run.json" | awk -v one="$one" '
  { cpu[NR] = $2; sum += $2; if ($2 > most) most = $2 }
  END {
    printf "one process  %.1f s of processor time\n", one
    for (r = 1; r <= NR; ++r) printf "rank %d       %.1f s, %.3f of the ranks together\n", r - 1, cpu[r], cpu[r] / sum
    printf "busiest      %.3f of one process; 1/(0.9 N) is %.3f\n", most / one, 1 / (0.9 * NR)
  }'
grep -o '"sent_bytes": [0-9]*' "$out/two/run.json" | awk '{ sum += $2 } END { printf "sent         %.1f MB\n", sum / 1e6 }'
