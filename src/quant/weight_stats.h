// What quantizing did to a weight.
#pragma once

#include "quant/int_weight.h"

namespace laos::quant {

struct WeightStats {
  double error = 0;    // ‖W - Ŵ‖ / ‖W‖; 0 for a weight of zeros
  double clipped = 0;  // share of weights more than half a step outside the range of their codes
  double range = 1;    // mean over scales of scale / the smallest scale that clips nothing
};

// `weight` [out_features, in_features] as it was before it became `quantized`. Does not depend on
// the number of threads.
WeightStats weight_stats(MatView<const float> weight, const IntWeight& quantized);

}  // namespace laos::quant
