#!/usr/bin/env bash
# Builds laos and runs tests of folders on Debian 13, which has oneDNN 3 and GCC 14, in a directory of a Debian machine
# of another release. Needs root.
#   scripts/debian13.sh [FOLDER...]    default: core linalg quant model
set -euo pipefail
cd "$(dirname "$0")/.."

folders=("$@")
if ((${#folders[@]} == 0)); then folders=(core linalg quant model); fi
root=$PWD/build/debian13-root
scripts/install-packages.sh debootstrap
if [[ ! -e $root/complete ]]; then
  rm -rf "$root"
  mkdir -p build
  debootstrap --variant=minbase trixie "$root" >"$PWD/build/debian13-root.log"
fi
mkdir -p "$root/laos"

# What is mounted here goes with the shell that it is mounted for.
export root targets="${folders[*]/%/_test}"
unshare --mount bash -euo pipefail -c '
  mount -t proc proc "$root/proc"
  mount --bind . "$root/laos"
  chroot "$root" bash -euo pipefail -c "
    cd /laos
    scripts/install-dependencies.sh
    touch /complete
    cmake -S . -B build/debian13 -G Ninja -DCMAKE_BUILD_TYPE=Release -DLAOS_UNITY=ON -DLAOS_BENCH=OFF
    cmake --build build/debian13 --target laos_exe $targets
    for target in $targets; do
      OMP_WAIT_POLICY=passive build/debian13/tests/\$target --gtest_brief=1 --gtest_filter=-\*Slow\*
    done"
'
