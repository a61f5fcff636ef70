#!/usr/bin/env bash
# Builds laos and passes its tests; installs what is missing first.
#   ./test.sh                 the tests that take seconds, and one of each kind of those that take minutes
#   ./test.sh --all           all of them
#   ./test.sh -L fast         arguments go to ctest: here only the tests that take seconds
# LAOS_PRESET chooses another configuration: debug, asan, tsan.
set -euo pipefail
cd "$(dirname "$0")"
preset=${LAOS_PRESET:-release}
options=() filter=("$@")
if [[ ${1:-} == --all ]]; then
  filter=("${@:2}")
elif (($# == 0)) && [[ $preset != *san ]]; then  # those choose their tests in CMakePresets.json
  options=(-DLAOS_BENCH=OFF)
  filter=(-L 'fast|sample')
fi
scripts/install-dependencies.sh
if [[ $preset == tsan ]]; then scripts/install-analysis-tools.sh; fi
# The preset sets every option: what another script has left in the build folder does not stay.
cmake --preset "$preset" "${options[@]}" ${LAOS_CMAKE_ARGS:-} >/dev/null
cmake --build --preset "$preset"
# Tests run side by side: threads that wait must not spin on each other's cores.
export OMP_WAIT_POLICY=passive
ctest --preset "$preset" -j "$(nproc)" "${filter[@]}"
