#!/usr/bin/env bash
# Quantizes models in every profile and writes what each costs in accuracy: a table and a plot. Needs a built laos.
#   scripts/accuracy.sh [OPTIONS] OUT MODEL...
# OUT: the directory for accuracy.md, accuracy.svg and, a folder a model, what was measured; what is there is not
# measured again. MODEL: a checkpoint directory, as scripts/real-model.sh makes one.
#   --calib FILE       calibrates on it, 48 samples of 256 tokens; without, on the set that comes with laos
#   --text FILE        judges on it in windows of 256 tokens, a column each; may be given several times
#   --tokens N         of each text (default 4080)
#   --profile FLAGS    of laos quant, as '--auto --average-bits 5'; may be given several times (default: w8a8, --fast,
#                      --auto, --balanced, --full)
#   --train            adds the published scheme with its 400 iterations of training a layer, which takes an hour
#   --no-tasks         leaves out the tasks that come with laos
# LAOS names the program (default build/release/laos).
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
laos=${LAOS:-$here/build/release/laos} calib=() texts=() tokens=4080 profiles=() train='' tasks=1
while [[ ${1:-} == --* ]]; do
  case $1 in
    --calib) calib=(--dataset "$2") && shift 2 ;;
    --text) texts+=("$2") && shift 2 ;;
    --tokens) tokens=$2 && shift 2 ;;
    --profile) profiles+=("$2") && shift 2 ;;
    --train) train=1 && shift ;;
    --no-tasks) tasks='' && shift ;;
    *) echo "no such option: $1" >&2 && exit 2 ;;
  esac
done
(($# >= 2)) || { sed -n 's/^# \{0,1\}//p' "$0" | sed -n '2,14p' >&2; exit 2; }
[[ -x $laos ]] || { echo "build laos first: ./quickstart.sh" >&2; exit 1; }
out=$1
shift
((${#profiles[@]} > 0)) || profiles=('--quant-type w8a8' --fast --auto --balanced --full)
[[ -z $train ]] || profiles+=('--quant-type w4a4')

# keep FILE COMMAND...: its output, unless it is there; whole or not at all.
keep() {
  [[ -s $1 ]] || { "${@:2}" >"$1.part" && mv "$1.part" "$1"; }
}
for model in "$@"; do
  work=$out/$(basename "$model")
  mkdir -p "$work"
  for text in "${texts[@]}"; do
    keep "$work/float.$(basename "$text").json" "$laos" eval --json --no-bos --seq-len 256 --max-tokens "$tokens" \
      --text "$text" --model-path "$model"
  done
  [[ -z $tasks ]] || keep "$work/float.tasks.json" "$laos" eval --json --tasks --model-path "$model"
  for profile in "${profiles[@]}"; do
    name=$(tr -cs 'a-zA-Z0-9.' - <<<"$profile" | sed 's/^-*//; s/-*$//')
    echo "--- $(basename "$model") $profile" >&2
    if [[ ! -e $work/$name/run.json ]]; then
      # shellcheck disable=SC2086  # a profile is flags
      "$laos" quant $profile --model-path "$model" --save-path "$work/$name" "${calib[@]}" --nsamples 48 --seqlen 256 \
        --lenient >"$work/$name.log"
    fi
    echo "$profile" >"$work/$name.profile"
    for text in "${texts[@]}"; do
      keep "$work/$name.$(basename "$text").json" "$laos" eval --json --no-bos --seq-len 256 --max-tokens "$tokens" \
        --text "$text" --model-path "$work/$name" --baseline "$model"
    done
    [[ -z $tasks ]] || keep "$work/$name.tasks.json" "$laos" eval --json --tasks --model-path "$work/$name" \
      --baseline "$model"
  done
done

python3 "$here/scripts/accuracy_table.py" "$out" "$(printf '%s\n' "${texts[@]##*/}")" "${@##*/}"
