#include "model/range_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/threads.h"

namespace laos::model {
namespace {

// Sign, exponent and the first five bits of the mantissa of an f32.
constexpr int kBits = 14, kDropped = 32 - kBits;
constexpr size_t kBins = size_t{1} << kBits;
constexpr int64_t kBlocks = 8;

double middle_of(size_t bin) {
  const auto edge = static_cast<uint32_t>(bin) << kDropped;
  return std::bit_cast<float>(edge | (uint32_t{1} << (kDropped - 1)));
}

}  // namespace

RangeHistogram::RangeHistogram() : blocks_(kBlocks, std::vector<uint64_t>(kBins)) {}

int64_t RangeHistogram::size_bytes() noexcept {
  return kBlocks * static_cast<int64_t>(kBins * sizeof(uint64_t));
}

void RangeHistogram::observe(MatView<const float> x) {
  parallel_for(kBlocks, [&](int64_t block) {
    const int64_t begin = x.cols * block / kBlocks, end = x.cols * (block + 1) / kBlocks;
    std::vector<uint64_t>& bins = blocks_[static_cast<size_t>(block)];
    for (int64_t i = 0; i < x.rows; ++i)
      for (int64_t j = begin; j < end; ++j)
        ++bins[std::bit_cast<uint32_t>(x.row(i)[j]) >> kDropped];
  });
}

double RangeHistogram::squared_error(double step, double first, double last) const {
  double sum = 0;
  for (size_t bin = 0; bin < kBins; ++bin) {
    uint64_t count = 0;
    for (const std::vector<uint64_t>& block : blocks_) count += block[bin];
    if (count == 0) continue;
    const double x = middle_of(bin), code = std::nearbyint(x / step);
    // Where a bin spans several codes its values stand anywhere between two of them.
    double error = step * step / 12;
    if (code < first || code > last || std::fabs(x) < 16 * step) {
      const double off = x - step * std::clamp(code, first, last);
      error = off * off;
    }
    sum += static_cast<double>(count) * error;
  }
  return sum;
}

}  // namespace laos::model
