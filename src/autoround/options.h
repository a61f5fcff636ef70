// Options of the autoround_quant processor.
#pragma once

#include <cstdint>

#include "linalg/gemm.h"

namespace laos::autoround {

struct TrainOptions {
  int64_t iters = 10;                // with until_flat at most
  bool until_flat = false;           // stop where more iterations no longer pay, see train_layer
  double lr_scale = 5;               // the first step is lr_scale / iters; 5 is the published one
  bool enable_round_tuning = true;   // learn rounding offsets
  bool enable_minmax_tuning = true;  // learn range shrink factors
  // Linears of which weight widths are trained; those of the other are rounded to nearest before.
  bool train_int4 = true, train_int8 = true;
  bool act_aware = false;  // round activations in training as the engine will, straight-through
  // Below: not of the recipe. A batch of more tokens is gone through in pieces, with weight
  // gradients kept whole; the result is the same.
  int64_t max_whole_tokens = int64_t{1} << 40;
  // Operands of the linears' products. kF32 is what kBf16 is held against.
  linalg::ComputeType compute = linalg::ComputeType::kF32;

  bool trains(int weight_bits) const noexcept {
    return (enable_round_tuning || enable_minmax_tuning) &&
           (weight_bits == 4 ? train_int4 : train_int8);
  }
};

}  // namespace laos::autoround
