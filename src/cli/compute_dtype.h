// --compute-dtype of the commands that calibrate and train.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/flags.h"
#include "linalg/gemm.h"
#include "linalg/onednn.h"

namespace laos::cli {

inline void add_compute_dtype(CLI::App& command, std::string& value) {
  command
      .add_option(both_spellings("--compute-dtype"), value,
                  "operands of the products of calibration and training, whose sums are f32: bf16, "
                  "f32, or auto: bf16 where the processor is faster in it (AMX, AMD with "
                  "AVX512-BF16, Arm bf16)")
      ->check(CLI::IsMember({"auto", "bf16", "f32"}))
      ->capture_default_str();
}

inline linalg::ComputeType compute_type_of(const std::string& value) {
  const bool is_bf16 = value == "bf16" || (value == "auto" && linalg::has_fast_bf16());
  return is_bf16 ? linalg::ComputeType::kBf16 : linalg::ComputeType::kF32;
}

}  // namespace laos::cli
