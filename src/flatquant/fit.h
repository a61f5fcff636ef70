// The pair of matrices in front of a group of linears that read the same, and how far their
// activations are clipped.
#pragma once

#include <cstdint>
#include <string>

#include "core/dtype.h"
#include "core/tensor.h"
#include "flatquant/input_rows.h"
#include "flatquant/options.h"
#include "model/online_transform.h"

namespace laos::flatquant {

struct Fitted {
  model::KroneckerTransform transform;  // matrices as `dtype` holds them
  std::string kind;                     // "hadamard", ...
  // Mean square of what quantizing makes of the group's outputs, over that of the outputs: of the
  // transform, and of none with clip 1.
  double error = 0, plain_error = 0;
};

// For linears `weight` [out_features, in_features], one below the other, whose inputs are `rows`;
// pairs of `left` by `right`, so many inputs or blocks of them; a left matrix of one row is 1.
// Tried are the pairs that `options` name, each with every clip from 1 to 0.5 in steps of 1/40.
// Half of the rows fit, the other half judge: the error of the outputs when activations and weights
// are rounded to 4 bits, outputs mixed into kMixedOutputs random combinations of all. Matrices are
// such that no token that was seen comes within a factor of 8 of f16's range. Same arguments, same
// bytes, on any number of threads. Throws Error(kUnsupported) where there is no Hadamard matrix nor
// a stand-in, which only kHadamard and kClosed need.
Fitted fit(const InputRows& rows, MatView<const float> weight, int64_t left, int64_t right,
           DType dtype, const FlatquantOptions& options);

inline constexpr int64_t kMixedOutputs = 256;

// W P⁻ᵀ in place of `weight` [out_features, in_features]: the inverses of the pair in f64, and so
// are the sums. A defect for a pair that is singular.
void fold(const model::KroneckerTransform& transform, MatView<float> weight);

// What fit() takes for such a group.
struct Cost {
  double flops = 0;
  int64_t bytes = 0;  // at once, the rows included, beside the weights
};
Cost cost_of(int64_t out_features, int64_t in_features, int64_t left, int64_t right,
             int64_t num_tokens, const FlatquantOptions& options);

}  // namespace laos::flatquant
