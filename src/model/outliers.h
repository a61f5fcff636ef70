// How far a few large values stand out of the rest: what makes activations hard to quantize.
#pragma once

#include "core/tensor.h"

namespace laos::model {

// Of each token alone and then averaged over tokens, since activations are quantized per token.
struct Outliers {
  double max_to_rms = 0;  // max|x| / rms(x), from 1 to sqrt(in_features)
  double kurtosis = 0;    // mean(x⁴) / mean(x²)², 1 to in_features; 3 where x is normal

  bool operator==(const Outliers&) const = default;
};

// x [num_tokens, in_features], only read. Tokens of zeros are left out; all zeros (or no tokens)
// gives 0. Does not depend on the number of threads.
Outliers outliers_of(MatView<const float> x);

// Whether no value is NaN or infinite.
bool is_finite(MatView<const float> x);

// Mean over tokens of ‖a - b‖ / ‖reference‖, all [num_tokens, n]; tokens where the reference is 0
// are left out. NaN when a value is not finite. Does not depend on the number of threads.
double mean_relative_error(MatView<const float> a, MatView<const float> b,
                           MatView<const float> reference);

}  // namespace laos::model
