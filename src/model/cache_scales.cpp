#include "model/cache_scales.h"

#include <algorithm>
#include <limits>

#include "core/threads.h"

namespace laos::model {
namespace {

// Ranges that are tried: shares of the channel's largest value, in steps of 1 / 40 down to a half.
// With 255 codes less than that clips more than it gains on any channel that was seen.
constexpr int kShareSteps = 40, kLeastShare = 20;
constexpr float kLeastScale = 0x1p-23f;

// The smallest value of `dtype` that is not below `value`.
float rounded_up(DType dtype, float value) {
  const float rounded = round_to(dtype, value);
  if (rounded >= value) return rounded;
  // One step of the narrowest mantissa that is supported, bfloat16's, is enough for any.
  return round_to(dtype, rounded * (1 + (dtype == DType::kBF16 ? 0x1p-7f : 0x1p-10f)));
}

}  // namespace

ChannelHistograms::ChannelHistograms(int64_t channels)
    : channels_(static_cast<size_t>(channels)), counts_(channels * kBins) {
  std::fill_n(counts_.data(), counts_.size(), 0U);
}

int64_t ChannelHistograms::size_bytes(int64_t channels) noexcept {
  return channels * static_cast<int64_t>(sizeof(Channel) + kBins * sizeof(uint32_t));
}

void ChannelHistograms::observe(MatView<const float> rows) {
  LAOS_ASSERT(rows.cols == std::ssize(channels_));
  parallel_for_ranges(rows.cols, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < rows.rows; ++i)
      for (int64_t j = begin; j < end; ++j) {
        const float x = std::fabs(rows.row(i)[j]);
        if (!std::isfinite(x)) continue;  // the model overflows, which others tell of
        Channel& channel = channels_[static_cast<size_t>(j)];
        uint32_t* const counts = counts_.data() + j * kBins;
        if (x > channel.peak) {
          const int exponent = std::ilogb(x) + 1;
          // Zeros alone were seen so far; they are in the first bin of any range.
          if (channel.peak == 0) channel.exponent = exponent;
          channel.peak = x;
          for (; channel.exponent < exponent; ++channel.exponent) {
            for (int64_t b = 0; b < kBins / 2; ++b) counts[b] = counts[2 * b] + counts[2 * b + 1];
            std::fill_n(counts + kBins / 2, kBins / 2, 0U);
          }
        }
        const auto bin =
            channel.peak == 0 ? 0 : static_cast<int64_t>(std::ldexp(x, -channel.exponent) * kBins);
        ++counts[std::min(bin, kBins - 1)];
      }
  });
}

double ChannelHistograms::middle(int64_t channel, int64_t bin) const {
  const double width = std::ldexp(1.0 / kBins, channels_[static_cast<size_t>(channel)].exponent);
  return (static_cast<double>(bin) + 0.5) * width;
}

// Rounding errors are taken as even over a step of the grid.
double ChannelHistograms::squared_error(int64_t channel, double scale) const {
  const uint32_t* const counts = counts_.data() + channel * kBins;
  double sum = 0;
  for (int64_t b = 0; b < kBins; ++b) {
    if (counts[b] == 0) continue;
    const double beyond = std::max(0.0, middle(channel, b) - kCacheCodeMax * scale);
    sum += counts[b] * std::max(scale * scale / 12, beyond * beyond);
  }
  return sum;
}

double ChannelHistograms::squared_sum(int64_t channel) const {
  const uint32_t* const counts = counts_.data() + channel * kBins;
  double sum = 0;
  for (int64_t b = 0; b < kBins; ++b) sum += counts[b] * middle(channel, b) * middle(channel, b);
  return sum;
}

std::vector<float> ChannelHistograms::scales(DType dtype) const {
  std::vector<float> scales(channels_.size());
  parallel_for(std::ssize(scales), [&](int64_t j) {
    const float peak = channels_[static_cast<size_t>(j)].peak;
    double least = std::numeric_limits<double>::infinity();
    for (int step = kShareSteps; step >= kLeastShare; --step) {
      const float share = static_cast<float>(step) / kShareSteps;
      const float scale = rounded_up(dtype, std::max(peak * share / kCacheCodeMax, kLeastScale));
      const double error = squared_error(j, scale);
      if (error >= least) continue;
      least = error;
      scales[static_cast<size_t>(j)] = scale;
    }
  });
  return scales;
}

double ChannelHistograms::error(const std::vector<float>& scales) const {
  double errors = 0, squares = 0;
  for (int64_t j = 0; j < std::ssize(scales); ++j) {
    if (channels_[static_cast<size_t>(j)].peak == 0) continue;
    errors += squared_error(j, scales[static_cast<size_t>(j)]);
    squares += squared_sum(j);
  }
  return squares > 0 ? errors / squares : 0;
}

}  // namespace laos::model
