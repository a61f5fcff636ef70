#include "model/pass_linears.h"

#include <algorithm>
#include <span>
#include <utility>

namespace laos::model {

using linalg::ComputeType;
using linalg::Trans;

Bf16Linears::Bf16Linears(const FloatLinears<float>::Weights& weights)
    : biases_(weights.biases), experts_(weights) {
  for (int64_t i = 0; i < weights.linears.size(); ++i) {
    const auto l = static_cast<Linear>(i);
    const MatView<const float> weight = weights.linears[l];
    if (weight.data == nullptr || hf::expert_of(l) >= 0) continue;
    narrow_[l] = Mat<uint16_t>(weight.rows, weight.cols);
    linalg::to_bf16(weight, narrow_[l].view());
  }
}

void Bf16Linears::forward(LinearGroup group, MatView<const float> x,
                          std::span<const MatView<float>> ys) {
  if (hf::expert_of(group) >= 0) return experts_.forward(group, x, ys);
  const MatView<uint16_t> narrow_x = grown(x_, x.rows, x.cols);
  linalg::to_bf16(x, narrow_x);
  const std::span<const Linear> linears = linears_of(group);
  for (size_t i = 0; i < linears.size(); ++i) {
    linalg::gemm_bf16(Trans::kNo, Trans::kYes, narrow_x,
                      std::as_const(narrow_[linears[i]]).view(), false, ys[i]);
    add_bias(biases_[linears[i]], ys[i]);
  }
}

std::unique_ptr<LinearsForward<float>> pass_linears(ComputeType compute,
                                                    const FloatLinears<float>::Weights& weights) {
  if (compute == ComputeType::kBf16) return std::make_unique<Bf16Linears>(weights);
  return std::make_unique<FloatLinears<float>>(weights);
}

int64_t pass_linears_bytes(ComputeType compute, const hf::Config& config, int64_t tokens) {
  if (compute == ComputeType::kF32) return 0;
  int64_t most = 0, widest = 0;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    int64_t params = 0;
    for (const Linear l : linears_in(config, i)) {
      if (hf::expert_of(l) >= 0) continue;
      params += num_weights(config, l);
      widest = std::max(widest, in_features(config, l));
    }
    most = std::max(most, params);
  }
  return 2 * most + 2 * tokens * widest + linalg::kBf16Bytes;
}

}  // namespace laos::model
