// The objectives that rows are rotated for, and the fit of the range objective.
#pragma once

#include <cstdint>
#include <functional>

#include "core/tensor.h"
#include "rotation/options.h"

namespace laos::rotation {

// Per-row symmetric quantize-dequantize of a [m, n] into `quantized` (spec 7.2). Returns
// ‖a - fq(a)‖_F / numel; rows are summed in order.
double rounding_error(MatView<const float> a, int bits, MatView<float> quantized);

// A smooth stand-in for the squared range of a row z [n]: its 12-norm squared, (Σ|z|¹²/n)^(1/6).
// The largest values have all the weight, as they have in the step max|z| / q_max, but the second
// largest is seen too. Writes the gradient over z.
double range_and_gradient(float* z, int64_t n);

// Rows that a step of fit_token_range sees.
inline constexpr int64_t kRangeBatchRows = 4096;

// The orthogonal R [n, n] that makes the mean of range² of rows(a R) small, by momentum descent on
// the rotation group; empty for the identity. A row a token, all of about the same norm, so that
// range² is the token's quantization error. Every eighth row is not fitted to: the R returned is
// the one with the least rounding_error on those, the identity included, and `best_step` its step.
// `note` gets that error now and then. Same bytes on any number of threads. `a` [m, n], m >= 1.
Mat<float> fit_token_range(Mat<float> a, const FitOptions& options,
                           const std::function<void(int64_t step, double loss)>& note,
                           int64_t& best_step);

}  // namespace laos::rotation
