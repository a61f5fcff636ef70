// The objectives that rows are rotated for, and the fit of the range objective.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor.h"
#include "linalg/gemm.h"
#include "rotation/options.h"

namespace laos::rotation {

// Per-row symmetric quantize-dequantize of a [m, n] into `quantized`. Returns
// ‖a - fq(a)‖_F / numel; rows are summed in order.
double rounding_error(MatView<const float> a, int bits, MatView<float> quantized);

// A smooth stand-in for the squared range of a row z [n]: its 12-norm squared, (Σ|z|¹²/n)^(1/6).
// The largest values have all the weight, as they have in the step max|z| / q_max, but the second
// largest is seen too. `gradient` [n] may be z.
double range_and_gradient(const float* z, float* gradient, int64_t n);

// Rows that a step of fit_token_range sees.
inline constexpr int64_t kRangeBatchRows = 4096;

// One row of so many is not fitted to.
inline constexpr int64_t kRangeHeldBack = 8;

// y = x, every `sharing` runs of n columns multiplied by one of the `blocks` [n, n].
void multiply_blocks(MatView<const float> x, const std::vector<Mat<float>>& blocks, int64_t sharing,
                     MatView<float> y);

// What fit_range_blocks fits, and how.
struct RangeFit {
  int64_t block_size;  // n
  int64_t sharing;     // runs of n columns, one behind the other, that share a matrix
  int64_t steps;
  int quant_bits;
  int64_t batch_rows;  // that a step sees, at most
  linalg::ComputeType compute = linalg::ComputeType::kF32;  // of the products of steps
};

// The orthogonal matrices [n, n], one for every `sharing` runs of n columns of `a`, that make the
// mean of range² of its rows small when each run is multiplied by its matrix, by momentum descent
// on the rotation group, each matrix turned by the same angle in a step, no plane of it by much.
// Between steps they are orthogonal to a few digits; those that are judged and returned to all.
// Empty for the identity. Every eighth row is not fitted to: those returned are the ones with the
// least rounding_error on those rows, the identity included, and `best_step` their step. `note`
// gets that error now and then. Same bytes on any number of threads. `a` [m, k * sharing * n], m
// >= 1.
std::vector<Mat<float>> fit_range_blocks(const Mat<float>& a, const RangeFit& fit,
                                         const std::function<void(int64_t step, double loss)>& note,
                                         int64_t& best_step);

// Bytes that fit_range_blocks of several blocks [n, n] takes for matrices of their size.
int64_t range_block_bytes(int64_t num_blocks, int64_t n) noexcept;

// fit_range_blocks of one matrix R [n, n] over whole rows of `a` [m, n]: a row a token, all of
// about the same norm, so that range² is the token's quantization error.
Mat<float> fit_token_range(Mat<float> a, const FitOptions& options,
                           const std::function<void(int64_t step, double loss)>& note,
                           int64_t& best_step);

}  // namespace laos::rotation
