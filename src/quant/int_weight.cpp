#include "quant/int_weight.h"

#include <algorithm>

#include "core/threads.h"
#include "quant/kernels/rows.h"

namespace laos::quant {
namespace {

constexpr int64_t kRowGrain = 16;

}  // namespace

float scale_of(float min, float max, const WeightSpec& spec) noexcept {
  const float scale = std::max(max, -min) / static_cast<float>(spec.q_max());
  return std::max(round_to(spec.scale_dtype, scale), round_to(spec.scale_dtype, 1e-5f));
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

QuantizedTokens quantize_tokens(MatView<const float> x, const ActSpec& spec) {
  QuantizedTokens tokens{Mat<int8_t>(x.rows, x.cols), Buffer<float>(x.rows)};
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const kernels::Range range = kernels::range(x.row(i), x.cols);
      const float peak = std::max(range.max, -range.min);
      const float scale = peak > 0 ? peak / static_cast<float>(spec.q_max()) : 1.0f;
      tokens.scale[i] = scale;
      kernels::quantize(x.row(i), nullptr, scale, spec.q_max(), tokens.q.row(i), x.cols);
    }
  });
  return tokens;
}

IntLinear::IntLinear(MatView<const int8_t> codes, std::vector<float> scale)
    : weight_(codes), scale_(std::move(scale)) {
  LAOS_ASSERT(static_cast<int64_t>(scale_.size()) == codes.rows);
}

void IntLinear::forward(const QuantizedTokens& x, MatView<float> y) const {
  Mat<int32_t> acc(x.q.rows(), weight_.rows());
  weight_.multiply(x.q.view(), acc.view());
  parallel_for_ranges(acc.rows(), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      kernels::rescale(acc.row(i), x.scale[i], scale_.data(), y.row(i), acc.cols());
  });
}

}  // namespace laos::quant
