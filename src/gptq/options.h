// Options of the gptq_quant processor, and of linear_quant with method gptq.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "linalg/gemm.h"

namespace laos::gptq {

struct GptqOptions {
  // Of the mean diagonal of the inputs' Gram matrix, added to its diagonal; nullopt: by the number
  // of tokens, InputGrams::damping.
  std::optional<double> damp = 0.01;
  bool act_order = true;  // columns with the largest inputs first
  // Before that each weight goes this share of the way, 0 to 1, to the one that fits its quantized
  // inputs by least squares. nullopt: the share, and how the fit is damped, are chosen for each
  // group of linears by tokens that it is not fitted to.
  std::optional<double> refit = 0;
  int64_t refit_inputs = std::numeric_limits<int64_t>::max();  // not of linears with more inputs
  int64_t refine = 0;     // rounds of improving codes and scales after that
  // Linears of which weight widths are solved; those of the other are rounded to nearest.
  bool solve_int4 = true, solve_int8 = true;
  linalg::ComputeType compute = linalg::ComputeType::kF32;  // of the Gram matrices

  bool refits(int64_t in_features) const noexcept {
    return refit != 0 && in_features <= refit_inputs;
  }
  bool solves(int weight_bits) const noexcept { return weight_bits == 4 ? solve_int4 : solve_int8; }
};

}  // namespace laos::gptq
