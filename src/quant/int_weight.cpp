#include "quant/int_weight.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/threads.h"
#include "quant/kernels/rows.h"

namespace laos::quant {
namespace {

constexpr int64_t kRowGrain = 16;

float token_scale(const float* x, int64_t n, const ActSpec& spec, float clip,
                  TokenPeak peak) noexcept {
  const kernels::Range range = kernels::range(x, n);
  const float steps =
      static_cast<float>(spec.q_max()) + (peak == TokenPeak::kHalfBeyond ? 0.5f : 0.0f);
  const float scale = clip * std::max(range.max, -range.min) / steps;
  return scale > 0 ? scale : 1.0f;
}

}  // namespace

float scale_of(float min, float max, const WeightSpec& spec) noexcept {
  const float scale = std::max(max, -min) / static_cast<float>(spec.steps());
  const float least =
      std::max(round_to(spec.scale_dtype, scale), round_to(spec.scale_dtype, spec.min_scale));
  return spec.signed_scale && max > -min ? -least : least;
}

IntWeight quantize_rtn(MatView<const float> weight, const WeightSpec& spec) {
  const int64_t group_size = spec.group_size == 0 ? weight.cols : spec.group_size;
  LAOS_ASSERT(weight.cols % group_size == 0);
  const int64_t num_groups = weight.cols / group_size;
  IntWeight result{spec, Mat<int8_t>(weight.rows, weight.cols), {}};
  result.scale.resize(static_cast<size_t>(weight.rows * num_groups));
  parallel_for_ranges(weight.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t g = 0; g < num_groups; ++g) {
        const float* group = weight.row(i) + g * group_size;
        const kernels::Range range = kernels::range(group, group_size);
        const float scale = scale_of(range.min, range.max, spec);
        result.scale[static_cast<size_t>(i * num_groups + g)] = scale;
        kernels::quantize(group, nullptr, scale, spec.q_max(), result.q.row(i) + g * group_size,
                          group_size);
      }
    }
  });
  return result;
}

Mat<float> dequantize(const IntWeight& weight) {
  const int64_t num_groups = static_cast<int64_t>(weight.scale.size()) / weight.q.rows();
  const int64_t group_size = weight.q.cols() / num_groups;
  Mat<float> real(weight.q.rows(), weight.q.cols());
  parallel_for(weight.q.rows(), [&](int64_t i) {
    for (int64_t g = 0; g < num_groups; ++g)
      kernels::dequantize(weight.q.row(i) + g * group_size,
                          weight.scale[static_cast<size_t>(i * num_groups + g)],
                          real.row(i) + g * group_size, group_size);
  });
  return real;
}

QuantizedTokens quantize_tokens(MatView<const float> x, const ActSpec& spec, float clip,
                                TokenPeak peak) {
  QuantizedTokens tokens{Mat<int8_t>(x.rows, x.cols), Buffer<float>(x.rows)};
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      tokens.scale[i] = token_scale(x.row(i), x.cols, spec, clip, peak);
      kernels::quantize(x.row(i), nullptr, tokens.scale[i], spec.q_max(), tokens.q.row(i), x.cols);
    }
  });
  return tokens;
}

void fake_quantize_tokens(MatView<const float> x, const ActSpec& spec, MatView<float> x_hat,
                          float clip) {
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      kernels::fake_quantize(x.row(i), nullptr,
                             token_scale(x.row(i), x.cols, spec, clip, TokenPeak::kLargestCode),
                             spec.q_max(), x_hat.row(i), x.cols);
  });
}

StaticRange static_range(float min, float max, const ActSpec& spec, DType scale_dtype) noexcept {
  constexpr float kMinScale = 0x1p-23f;
  const auto q_max = static_cast<float>(spec.q_max());
  const float width = spec.symmetric ? std::max(max, -min) / q_max : (max - min) / (2 * q_max + 1);
  StaticRange range;
  range.scale = std::max(round_to(scale_dtype, width), kMinScale);
  if (!spec.symmetric)
    range.offset = std::clamp(std::nearbyint(-min / range.scale) - q_max - 1, -q_max - 1, q_max);
  return range;
}

IntLinear::IntLinear(MatView<const int8_t> codes, std::vector<float> scale) : scale_(scale.size()) {
  LAOS_ASSERT(codes.rows > 0 && static_cast<int64_t>(scale.size()) % codes.rows == 0);
  const int64_t num_groups = static_cast<int64_t>(scale.size()) / codes.rows;
  LAOS_ASSERT(num_groups > 0 && codes.cols % num_groups == 0);
  const int64_t group_size = codes.cols / num_groups;
  for (int64_t g = 0; g < num_groups; ++g) {
    groups_.emplace_back(codes.slice_cols(g * group_size, (g + 1) * group_size));
    for (int64_t i = 0; i < codes.rows; ++i)
      scale_[static_cast<size_t>(g * codes.rows + i)] =
          scale[static_cast<size_t>(i * num_groups + g)];
  }
}

void IntLinear::forward(const QuantizedTokens& x, MatView<float> y) const {
  const int64_t group_size = groups_.front().cols();
  const auto rows = [&](int64_t first, int64_t last, Buffer<int32_t>& sums, Buffer<float>& part) {
    const MatView<int32_t> acc = grown(sums, last - first, y.cols);
    for (size_t g = 0; g < groups_.size(); ++g) {
      const int64_t begin = static_cast<int64_t>(g) * group_size;
      groups_[g].multiply(x.q.view().slice_rows(first, last).slice_cols(begin, begin + group_size),
                          acc);
      const float* scale = scale_.data() + static_cast<int64_t>(g) * y.cols;
      const MatView<float> parts = grown(part, g == 0 ? 0 : acc.rows, y.cols);
      parallel_for_ranges(acc.rows, kRowGrain, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          float* target = g == 0 ? y.row(first + i) : parts.row(i);
          kernels::rescale(acc.row(i), x.scale[first + i], scale, target, y.cols);
          if (g != 0)
            for (int64_t j = 0; j < y.cols; ++j) y.row(first + i)[j] += target[j];
        }
      });
    }
  };
  const int64_t n = x.q.rows(), strip = linalg::S8Weight::rows_at_once(n);
  if (strip == n) {
    Buffer<int32_t> sums;
    Buffer<float> part;
    return rows(0, n, sums, part);
  }
  // Sums are scaled while they are in a cache.
  parallel_for_ranges(n, strip, [&](int64_t first, int64_t last) {
    thread_local Buffer<int32_t> sums;
    thread_local Buffer<float> part;
    rows(first, last, sums, part);
  });
}

StaticLinear::StaticLinear(MatView<const int8_t> codes, StaticRange input,
                           std::vector<float> deq_scale, std::vector<int32_t> quant_bias)
    : weight_(codes),
      input_(input),
      deq_scale_(std::move(deq_scale)),
      quant_bias_(std::move(quant_bias)) {
  LAOS_ASSERT(static_cast<int64_t>(deq_scale_.size()) == codes.rows);
  LAOS_ASSERT(static_cast<int64_t>(quant_bias_.size()) == codes.rows);
}

void StaticLinear::forward(MatView<const float> x, MatView<float> y) const {
  constexpr int32_t kMax = 127;
  Mat<int8_t> codes(x.rows, x.cols);
  const std::vector<float> offsets(static_cast<size_t>(x.cols), input_.offset);
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      kernels::quantize(x.row(i), offsets.data(), input_.scale, kMax, codes.row(i), x.cols);
  });
  Mat<int32_t> acc(x.rows, weight_.rows());
  weight_.multiply(std::as_const(codes).view(), acc.view());
  parallel_for_ranges(acc.rows(), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < acc.cols(); ++j) acc(i, j) += quant_bias_[static_cast<size_t>(j)];
      kernels::rescale(acc.row(i), 1.0f, deq_scale_.data(), y.row(i), acc.cols());
    }
  });
}

StaticParts static_parts(const IntWeight& weight, const StaticRange& input,
                         std::span<const float> bias) {
  StaticParts parts;
  for (int64_t i = 0; i < weight.q.rows(); ++i) {
    parts.deq_scale.push_back(input.scale * weight.scale[static_cast<size_t>(i)]);
    int32_t sum = 0;
    for (int64_t j = 0; j < weight.q.cols(); ++j) sum += weight.q(i, j);
    const double of_bias =
        bias.empty() ? 0.0
                     : static_cast<double>(bias[static_cast<size_t>(i)]) / parts.deq_scale.back();
    constexpr double kMost = std::numeric_limits<int32_t>::max();
    parts.quant_bias.push_back(static_cast<int32_t>(std::clamp(
        std::nearbyint(of_bias - static_cast<double>(input.offset) * sum), -kMost, kMost)));
  }
  return parts;
}

}  // namespace laos::quant
