#!/usr/bin/env bash
# Compares two builds fairly: runs the same command with either program in turn, as often as asked, and prints the
# median CPU and wall times and their ratios. The machine's moods fall on both alike; the order within a pair alternates.
#
#   bench/compare.sh [-n PAIRS] OLD NEW ARGS...        e.g. bench/compare.sh build/a/laos build/b/laos bench --shape tiny
set -euo pipefail
pairs=5
if [[ ${1:-} == -n ]]; then
  pairs=$2
  shift 2
fi
if (($# < 3)) || ! [[ $pairs =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
old=$1 new=$2
shift 2
times=$(mktemp)
trap 'rm -f "$times"' EXIT

run() {  # NAME PROGRAM ARGS...: one line "NAME cpu wall"
  local name=$1 output
  shift
  TIMEFORMAT='%U %S %R'
  if ! output=$({ time "$@" >/dev/null 2>&1; } 2>&1); then
    echo "$name failed: $*" >&2
    exit 1
  fi
  awk -v name="$name" '{ print name, $1 + $2, $3 }' <<<"$output" >>"$times"
}

run warm "$old" "$@"
run warm "$new" "$@"
for ((i = 0; i < pairs; i++)); do
  if ((i % 2 == 0)); then
    run old "$old" "$@"
    run new "$new" "$@"
  else
    run new "$new" "$@"
    run old "$old" "$@"
  fi
done

median() { awk -v name="$1" -v column="$2" '$1 == name { print $column }' "$times" | sort -g | awk '{ x[NR] = $1 } END { print (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2 }'; }
for column in 2 3; do
  awk -v what="$([[ $column == 2 ]] && echo CPU || echo wall)" -v a="$(median old $column)" -v b="$(median new $column)" \
    'BEGIN { printf "%-5s old %.3f s  new %.3f s  new/old %s\n", what, a, b, (a > 0 ? sprintf("%.3f", b / a) : "-") }'
done
