#!/usr/bin/env bash
# Installs what fuzzing, ThreadSanitizer, clang-tidy, cppcheck and instruction counts need beside
# scripts/install-dependencies.sh: Debian and Ubuntu packages. Does nothing when all of them are there. Needs root, or
# sudo.
set -euo pipefail

packages=(
  clang            # fuzz targets, and ThreadSanitizer with a runtime that it sees into
  libclang-rt-dev  # libFuzzer and the sanitizers of clang
  libomp-dev       # OpenMP for clang
  llvm             # llvm-symbolizer: names in reports
  clang-tidy
  cppcheck
  valgrind         # counts the instructions of kernels
)

"$(dirname "$0")"/install-packages.sh "${packages[@]}"
