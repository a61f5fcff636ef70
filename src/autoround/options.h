// Options of the autoround_quant processor (spec 2.6).
#pragma once

#include <cstdint>

#include "linalg/gemm.h"

namespace laos::autoround {

struct TrainOptions {
  int64_t iters = 10;
  bool enable_round_tuning = true;   // learn rounding offsets
  bool enable_minmax_tuning = true;  // learn range shrink factors
  bool act_aware = false;  // round activations in training as the engine will, straight-through
  // Operands of the linears' products; not of the recipe. kF32 is what kBf16 is held against.
  linalg::ComputeType compute = linalg::ComputeType::kF32;
};

}  // namespace laos::autoround
