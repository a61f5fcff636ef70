#!/usr/bin/env bash
# Installs what fuzzing, ThreadSanitizer, clang-tidy and cppcheck need beside scripts/install-dependencies.sh:
# Debian and Ubuntu packages. Does nothing when all of them are there. Needs root, or sudo.
set -euo pipefail

packages=(
  clang            # fuzz targets, and ThreadSanitizer with a runtime that it sees into
  libclang-rt-dev  # libFuzzer and the sanitizers of clang
  libomp-dev       # OpenMP for clang
  llvm             # llvm-symbolizer: names in reports
  clang-tidy
  cppcheck
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi
echo "installing: ${missing[*]}"
sudo=()
if ((EUID != 0)); then sudo=(sudo); fi
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
