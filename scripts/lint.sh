#!/usr/bin/env bash
# cppcheck over src/, with no finding to pass, and each source of it compiled alone, as the build compiles several together;
# clang-tidy (checks in .clang-tidy) over the sources that are named.
#   scripts/lint.sh [FILE...]
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install-analysis-tools.sh
# The compile commands of a build that need not be built.
cmake --preset release -B build/lint -DLAOS_UNITY=OFF >/dev/null
mkdir -p build/cppcheck
cppcheck --project=build/lint/compile_commands.json --file-filter='*src/*' -j "$(nproc)" --quiet \
  --cppcheck-build-dir=build/cppcheck --enable=warning,performance,portability --error-exitcode=1 \
  --suppressions-list=.cppcheck-suppressions
python3 - build/lint/compile_commands.json <<'PY'
import concurrent.futures, json, os, re, subprocess, sys
with open(sys.argv[1]) as file:
    sources = [entry for entry in json.load(file) if "/src/" in entry["file"]]
def compiles(entry):
    command = re.sub(r" -o \S+", "", entry["command"]) + " -fsyntax-only"
    return subprocess.run(command, shell=True, cwd=entry["directory"]).returncode == 0
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    sys.exit(not all(list(pool.map(compiles, sources))))
PY
if (($# > 0)); then
  printf '%s\n' "$@" | xargs -P "$(nproc)" -n 1 clang-tidy -p build/lint --quiet \
    --extra-arg=-Wno-unknown-warning-option
fi
