#!/usr/bin/env bash
# Builds the fuzz targets and runs each for some seconds, as many at once as there are processors.
#   scripts/fuzz.sh [SECONDS [TARGET...]]     default: 30 seconds, every target in tests/fuzz
# Inputs that reach new code are kept in build/fuzz/corpus/TARGET; a finding ends that target, is left in
# build/fuzz/findings and makes the script fail. Put it into tests/fuzz/corpus/TARGET, where every build tests it.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30}
shift || true
targets=("$@")
if ((${#targets[@]} == 0)); then
  for source in tests/fuzz/corpus/*/; do targets+=("$(basename "$source")"); done
fi

scripts/install-analysis-tools.sh
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz -j "$(nproc)" --target "${targets[@]/#/fuzz_}"
mkdir -p build/fuzz/findings

fuzz() {  # of one target
  local target=$1 log=build/fuzz/findings/$1.log options=()
  local seeds=("build/fuzz/corpus/$target" "tests/fuzz/corpus/$target")
  mkdir -p "${seeds[0]}"
  if [[ $target == recipe ]]; then seeds+=(recipes); fi
  if [[ -f tests/fuzz/$target.dict ]]; then options+=("-dict=tests/fuzz/$target.dict"); fi
  # Files of the target lie in memory; anything slower than 10 s or larger than 2 GB is a finding.
  if ! TMPDIR=/dev/shm build/fuzz/tests/fuzz/fuzz_"$target" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=2048 -malloc_limit_mb=1024 -max_len=32768 -print_final_stats=1 -close_fd_mask=1 \
    -artifact_prefix="build/fuzz/findings/$target-" "${options[@]}" "${seeds[@]}" >"$log" 2>&1; then
    echo "== $target: a finding"
    tail -n 60 "$log"
    return 1
  fi
  echo "$target: $(grep -o 'Done [0-9]* runs in [0-9]* second(s)' "$log")"
}
export -f fuzz
export seconds
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -euo pipefail -c 'fuzz {}'
