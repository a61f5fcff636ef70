#!/usr/bin/env bash
# Counts the instructions of each elementwise kernel under callgrind, on the AVX2 kernels whatever the processor, and
# holds them against the counts kept in bench/instruction_counts.txt: more than 3 % above fails. Counts depend on the
# compiler and on Highway, not on the machine or its load. Exits with 77 where there is no valgrind or no AVX2.
#
#   bench/instruction_counts.sh RUN_KERNEL [--update]
set -euo pipefail
program=${1:?usage: bench/instruction_counts.sh RUN_KERNEL [--update]}
kept=$(dirname "$0")/instruction_counts.txt
command -v valgrind >/dev/null || { echo "skipped: no valgrind"; exit 77; }
grep -qw avx2 /proc/cpuinfo || { echo "skipped: no AVX2"; exit 77; }

counts=$(mktemp)
trap 'rm -f "$counts"' EXIT
while read -r name function; do
  count=$(LAOS_ISA=AVX2 OMP_NUM_THREADS=1 valgrind --tool=callgrind --callgrind-out-file=/dev/null \
    --toggle-collect="$function" "$program" "$name" 2>&1 | sed -n 's/.*Collected : \([0-9]*\).*/\1/p')
  [[ ${count:-0} -gt 0 ]] || { echo "$name: nothing was counted; is $function still its name?" >&2; exit 1; }
  echo "$name $count" >>"$counts"
done < <("$program")

if [[ ${2:-} == --update ]]; then
  cp "$counts" "$kept"
  cat "$kept"
  exit
fi
awk 'NR == FNR { kept[$1] = $2; next }
     !($1 in kept) { printf "%s: no count is kept; run with --update\n", $1; bad = 1; next }
     { ratio = $2 / kept[$1]; printf "%-24s %8d  kept %8d  %+.1f %%\n", $1, $2, kept[$1], 100 * (ratio - 1)
       if (ratio > 1.03) { bad = 1; printf "%s takes more instructions than before\n", $1 } }
     END { exit bad }' "$kept" "$counts"
