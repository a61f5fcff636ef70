// Attention's cache of keys and values as int8 codes with a fixed scale for each channel, which
// vLLM-Ascend calls C8: the scales, found on calibration tokens, and what the codes make of a
// value.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "core/tensor.h"

namespace laos::model {

inline constexpr int kCacheCodeMin = -128, kCacheCodeMax = 127;

// row[j] = scale[j] * q with q = round(row[j] * (1 / scale[j])), half to even, in -128..127: what
// attention reads back. Each operation is rounded to `dtype`, which the engine computes in.
template <class T>
void round_to_cache(const T* scale, DType dtype, T* row, int64_t n) {
  const auto rounded = [dtype](T value) {
    return dtype == DType::kF32 ? value
                                : static_cast<T>(round_to(dtype, static_cast<float>(value)));
  };
  for (int64_t j = 0; j < n; ++j) {
    const T code = std::nearbyint(rounded(row[j] * rounded(1 / scale[j])));
    row[j] = rounded(scale[j] * std::fmin(std::fmax(code, kCacheCodeMin), kCacheCodeMax));
  }
}

// How large the values of some channels become, as one histogram of |x| a channel. What it holds
// does not depend on the order of rows nor on how they are batched.
class ChannelHistograms {
 public:
  explicit ChannelHistograms(int64_t channels);
  static int64_t size_bytes(int64_t channels) noexcept;

  // rows [n, channels]. What is not finite is passed over.
  void observe(MatView<const float> rows);

  // The scale of each channel with the least squared error over what was observed, exact in
  // `dtype` and > 0: that of a channel that was always 0 is the smallest.
  std::vector<float> scales(DType dtype) const;
  // Σ (x - x̂)² over Σ x² of all channels at these scales; 0 where all x are 0.
  double error(const std::vector<float>& scales) const;

 private:
  // Bins of a channel: [i, i + 1) * 2^exponent / kBins.
  static constexpr int64_t kBins = 1024;
  struct Channel {
    float peak = 0;  // max |x|
    int exponent = 0;
  };
  // Σ (x - x̂)² and Σ x² of a channel, with each value in the middle of its bin.
  double squared_error(int64_t channel, double scale) const;
  double squared_sum(int64_t channel) const;
  double middle(int64_t channel, int64_t bin) const;

  std::vector<Channel> channels_;
  Buffer<uint32_t> counts_;  // [channels, kBins]
};

}  // namespace laos::model
