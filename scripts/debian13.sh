#!/usr/bin/env bash
# Builds laos and runs tests of folders on Debian 13, which has oneDNN 3 and GCC 14, in a directory of a Debian machine
# of another release. Needs root.
#   scripts/debian13.sh [FOLDER...]    default: core linalg quant model
set -euo pipefail
folders=("$@")
if ((${#folders[@]} == 0)); then folders=(core linalg quant model); fi
exec "$(dirname "$0")/in-system.sh" trixie bash -euo pipefail -c '
  scripts/install-dependencies.sh
  cmake -S . -B build/debian13 -G Ninja -DCMAKE_BUILD_TYPE=Release -DLAOS_UNITY=ON -DLAOS_BENCH=OFF
  cmake --build build/debian13 --target laos_exe "${@/%/_test}"
  for folder in "$@"; do
    OMP_WAIT_POLICY=passive "build/debian13/tests/${folder}_test" --gtest_brief=1 --gtest_filter=-\*Slow\*
  done
' bash "${folders[@]}"
