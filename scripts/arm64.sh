#!/usr/bin/env bash
# Builds laos for 64-bit Arm on a Debian machine of another kind, and runs tests of folders by emulation, which has NEON,
# SVE and SVE2. Needs root, or sudo, for a compiler and for the libraries of a Debian of that kind, once.
#   scripts/arm64.sh [FOLDER...]    default: core linalg quant model
set -euo pipefail
cd "$(dirname "$0")/.."

folders=("$@")
if ((${#folders[@]} == 0)); then folders=(core linalg quant model); fi
root=$PWD/build/arm64-root build=$PWD/build/arm64
scripts/install-packages.sh g++-aarch64-linux-gnu qemu-user-static debootstrap

if [[ ! -e $root/complete ]]; then
  # What install-dependencies.sh lists of libraries, MPI apart, and what it adds on Arm.
  libraries=$(sed -n 's/^  \([a-z0-9-]*-dev\) .*/\1/p' scripts/install-dependencies.sh | grep -v openmpi | paste -sd,)
  libraries+=,libopenblas-pthread-dev
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  sudo=()
  if ((EUID != 0)); then sudo=(sudo); fi
  "${sudo[@]}" rm -rf "$root"
  "${sudo[@]}" debootstrap --foreign --arch=arm64 --variant=minbase --include="libc6-dev,libgomp1,$libraries" \
    "$release" "$root" >"$PWD/build/arm64-root.log"
  for package in "$root"/var/cache/apt/archives/*.deb; do
    "${sudo[@]}" dpkg -x "$package" "$root"
  done
  "${sudo[@]}" touch "$root/complete"
fi

export PKG_CONFIG_SYSROOT_DIR=$root
libdir=/usr/lib/aarch64-linux-gnu
blasdir=$libdir/openblas-pthread
export PKG_CONFIG_LIBDIR=$root$libdir/pkgconfig:$root$blasdir/pkgconfig:$root/usr/share/pkgconfig
emulator="qemu-aarch64-static -L $root -E LD_LIBRARY_PATH=$blasdir"
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLAOS_MPI=OFF -DLAOS_BENCH=OFF \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  -DCMAKE_SYSROOT="$root" -DCMAKE_FIND_ROOT_PATH="$root" -DCMAKE_LIBRARY_ARCHITECTURE=aarch64-linux-gnu \
  -DCMAKE_FIND_ROOT_PATH_MODE_PROGRAM=NEVER -DCMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY \
  -DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY -DCMAKE_FIND_ROOT_PATH_MODE_PACKAGE=ONLY \
  -DCMAKE_CROSSCOMPILING_EMULATOR="${emulator// /;}"
cmake --build "$build" --target laos_exe "${folders[@]/%/_test}"
for folder in "${folders[@]}"; do
  OMP_WAIT_POLICY=passive $emulator "$build/tests/${folder}_test" --gtest_brief=1 --gtest_filter='-*Slow*'
done
