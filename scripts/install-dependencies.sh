#!/usr/bin/env bash
# Installs what laos is built from: Debian 12, Debian 13 or Ubuntu 24.04 packages, nothing else.
# Does nothing when all of them are there. Needs root, or sudo.
set -euo pipefail

packages=(
  g++                   # C++20 compiler
  cmake                 # build system, 3.25 or later
  ninja-build           # runs the build
  pkg-config            # finds PCRE2 and utf8proc
  libdnnl-dev           # oneDNN: every matrix product
  ocl-icd-opencl-dev    # oneDNN's CMake package asks for OpenCL where it was built with it (Debian 12)
  libhwy-dev            # Highway: SIMD kernels from one source for every instruction set
  libyaml-cpp-dev       # recipes
  nlohmann-json3-dev    # config.json, tokenizer.json, descriptions, --json
  libcli11-dev          # command-line flags
  libpcre2-dev          # the tokenizer's split expression
  libutf8proc-dev       # the tokenizer's Unicode normalisation
  libssl-dev            # SHA-256 of what is written
  zlib1g-dev            # calibration and evaluation texts that are packed (.gz)
  libopenmpi-dev        # ranks on several machines (laos quant under mpirun)
  openmpi-bin           # mpirun, which starts them
  libgtest-dev          # tests
  libgmock-dev          # matchers for tests
  libbenchmark-dev      # benchmarks
)
if [[ $(dpkg --print-architecture) == arm64 ]]; then
  packages+=(libopenblas-dev)  # f32 products, which oneDNN has no code for there
fi

"$(dirname "$0")"/install-packages.sh "${packages[@]}"
