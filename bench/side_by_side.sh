#!/usr/bin/env bash
# The same job by laos and by a program of the PyTorch world, one after the other: time, peak memory and accuracy.
#   bench/side_by_side.sh PYTHON PEER MODEL DATASET.jsonl OUT [OPTIONS OF bench/peers.py]
# PYTHON: of an environment with torch and the peer (gptqmodel, llmcompressor or autoround). MODEL: a checkpoint
# directory. The job: every linear of the decoder W4A16 in groups of 64, on the first 48 texts of at least 256 tokens,
# cut there; laos's own without its health check, --no-rotate for the same method, then as --scheme W4A16 is.
#   TEXT=FILE     judges all results on it (default: the dataset), in windows of 256 tokens
#   LAOS=PROGRAM  default build/release/laos
set -euo pipefail
(($# >= 5)) || { sed -n 's/^# \{0,1\}//p' "$0" | sed -n '2,9p' >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
laos=${LAOS:-$here/build/release/laos} python=$1 peer=$2 model=$3 dataset=$4 out=$5
shift 5
mkdir -p "$out"

# timed NAME COMMAND...: its output in OUT/NAME.log, seconds and bytes in OUT/NAME.cost
timed() {
  "$python" - "$out/$1" "${@:2}" <<'PY'
import resource, subprocess, sys, time
name, command = sys.argv[1], sys.argv[2:]
begin = time.time()
with open(name + ".log", "w") as log:
    code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
seconds = time.time() - begin
if code != 0:
    sys.exit(f"{command[0]} failed, see {name}.log")
with open(name + ".cost", "w") as cost:
    print(f"{seconds:.1f} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3:.0f}", file=cost)
PY
}
common=(quant --scheme W4A16 --group-size 64 --model-path "$model" --dataset "$dataset" --nsamples 48 --seqlen 256
  --no-health --lenient --progress none)
[[ -d $out/laos-plain ]] || timed laos-plain "$laos" "${common[@]}" --no-rotate --save-path "$out/laos-plain"
[[ -d $out/laos ]] || timed laos "$laos" "${common[@]}" --save-path "$out/laos"
[[ -d $out/$peer ]] ||
  timed "$peer" "$python" "$here/bench/peers.py" "$peer" --model "$model" --dataset "$dataset" --out "$out/$peer" "$@"

printf '%-16s %9s %9s %9s  %s\n' "" seconds MB "of laos's" "KL, perplexity"
read -r base _ <"$out/laos.cost"
for name in laos laos-plain "$peer"; do
  read -r seconds megabytes <"$out/$name.cost"
  "$laos" eval --json --no-bos --seq-len 256 --max-tokens 4080 --text "${TEXT:-$dataset}" --model-path "$out/$name" \
    --baseline "$model" >"$out/$name.json"
  "$python" - "$name" "$seconds" "$megabytes" "$base" "$out/$name.json" <<'PY'
import json, sys
name, seconds, megabytes, base, path = sys.argv[1:]
with open(path) as file:
    figures = json.load(file)
kl = figures["kl"]
print(f"{name:16} {float(seconds):9.1f} {megabytes:>9} {float(seconds) / float(base):9.2f}  "
      f"{kl['mean']:.4f} ± {kl['stderr']:.4f}, {figures['perplexity']:.4f}")
PY
done
