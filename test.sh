#!/usr/bin/env bash
# Builds laos and passes its tests; installs what is missing first. Arguments go to ctest, as
#   ./test.sh -L fast         only the tests that take seconds
# LAOS_PRESET chooses another configuration: debug, asan, tsan.
set -euo pipefail
cd "$(dirname "$0")"
preset=${LAOS_PRESET:-release}
scripts/install-dependencies.sh
if [[ $preset == tsan ]]; then scripts/install-analysis-tools.sh; fi
cmake --preset "$preset" ${LAOS_CMAKE_ARGS:-} >/dev/null
cmake --build --preset "$preset"
# Tests run side by side: threads that wait must not spin on each other's cores.
export OMP_WAIT_POLICY=passive
ctest --preset "$preset" -j "$(nproc)" "$@"
