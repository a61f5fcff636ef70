// How often the values of a linear's inputs fall where, for a range that all tokens share.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace laos::model {

// One histogram over all channels and tokens. Bins are 1 / 32 of a power of two wide at every size,
// since the largest value may be thousands of times the usual one. One thread at a time; what it
// holds does not depend on how rows are batched.
class RangeHistogram {
 public:
  RangeHistogram();
  static int64_t size_bytes() noexcept;

  // Adds x [tokens, channels], finite.
  void observe(MatView<const float> x);

  // Σ (x - x̂)² for x̂ = step * clamp(round(x / step), first, last), with each x in the
  // middle of its bin.
  double squared_error(double step, double first, double last) const;

 private:
  std::vector<std::vector<uint64_t>> blocks_;  // of channels: counts of the bins
};

}  // namespace laos::model
