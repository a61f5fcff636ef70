#include "smooth/smooth.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <variant>
#include <vector>

#include "core/dtype.h"

namespace laos::smooth {

using model::Linear;
using model::LinearGroup;

namespace {

// What a pair scales: columns of the group's linears, and rows of a linear or a norm's gain.
struct Members {
  LinearGroup targets;
  std::variant<Linear, hf::Norm> source;
};

Members members_of(Pair pair) noexcept {
  switch (pair) {
    case Pair::kUpDown:
      return {LinearGroup::kDown, Linear::kUpProj};
    case Pair::kOv:
      return {LinearGroup::kO, Linear::kVProj};
    case Pair::kInputNorm:
      return {LinearGroup::kQkv, hf::Norm::kInputLayernorm};
    case Pair::kPostAttentionNorm:
      break;
  }
  return {LinearGroup::kGateUp, hf::Norm::kPostAttentionLayernorm};
}

std::vector<float> sizes_of(const model::ActivationStats::Group& stats, Statistic statistic) {
  if (statistic == Statistic::kPeak) return stats.peak;
  const std::vector<double>& sums =
      statistic == Statistic::kL4 ? stats.fourth_sum : stats.relative_fourth_sum;
  std::vector<float> sizes(sums.size());
  const auto tokens = static_cast<double>(std::max<int64_t>(1, stats.num_tokens));
  for (size_t j = 0; j < sizes.size(); ++j)
    sizes[j] = static_cast<float>(std::pow(sums[j] / tokens, 0.25));
  return sizes;
}

std::vector<float> factors(const hf::Config& config, const SmoothOptions& options,
                           const std::vector<float>& sizes, std::span<const Linear> targets,
                           const model::LayerWeights& weights) {
  std::vector<float> weight_peaks(sizes.size(), 1e-5f);
  for (const Linear target : targets) {
    const Mat<float>& weight = weights[target];
    for (int64_t i = 0; i < weight.rows(); ++i)
      for (size_t j = 0; j < sizes.size(); ++j)
        weight_peaks[j] = std::max(weight_peaks[j], std::abs(weight.row(i)[j]));
  }
  std::vector<float> scales(sizes.size());
  for (size_t j = 0; j < sizes.size(); ++j) {
    const double s =
        std::pow(sizes[j], options.alpha) / std::pow(weight_peaks[j], 1 - options.alpha);
    scales[j] = round_to(config.dtype, static_cast<float>(std::max(options.scale_min, s)));
    if (!std::isfinite(scales[j]) || scales[j] <= 0) scales[j] = 1;
  }
  return scales;
}

void multiply_columns(const std::vector<float>& scales, Mat<float>& weight) {
  for (int64_t i = 0; i < weight.rows(); ++i)
    for (size_t j = 0; j < scales.size(); ++j) weight.row(i)[j] *= scales[j];
}

// A norm's gain, or a linear's bias, which may be empty.
void divide(const std::vector<float>& scales, Mat<float>& row) {
  for (int64_t j = 0; j < row.size(); ++j) row.data()[j] /= scales[static_cast<size_t>(j)];
}

void divide_outputs(const std::vector<float>& scales, Linear linear, model::LayerWeights& weights) {
  Mat<float>& weight = weights[linear];
  for (int64_t i = 0; i < weight.rows(); ++i)
    for (int64_t j = 0; j < weight.cols(); ++j) weight(i, j) /= scales[static_cast<size_t>(i)];
  divide(scales, weights.biases[linear]);
}

// Query heads of a KV head read the same values, so they share factors: their mean. Writes it back
// to all of them; returns one factor a KV channel.
std::vector<float> share_over_heads(const hf::Config& config, std::vector<float>& scales) {
  const int64_t hd = config.head_dim, kv_heads = config.num_key_value_heads,
                group = config.num_attention_heads / kv_heads;
  std::vector<float> shared(static_cast<size_t>(kv_heads * hd));
  for (int64_t kv = 0; kv < kv_heads; ++kv)
    for (int64_t d = 0; d < hd; ++d) {
      double sum = 0;
      for (int64_t h = kv * group; h < (kv + 1) * group; ++h)
        sum += scales[static_cast<size_t>(h * hd + d)];
      const float mean =
          round_to(config.dtype, static_cast<float>(sum / static_cast<double>(group)));
      shared[static_cast<size_t>(kv * hd + d)] = mean;
      for (int64_t h = kv * group; h < (kv + 1) * group; ++h)
        scales[static_cast<size_t>(h * hd + d)] = mean;
    }
  return shared;
}

}  // namespace

std::string source_of(const hf::Config& config, int64_t layer_idx, Pair pair) {
  return std::visit([&](auto source) { return hf::name_of(config, layer_idx, source); },
                    members_of(pair).source);
}

bool is_enabled(const SmoothOptions& options, Pair pair) noexcept {
  if (pair == Pair::kUpDown) return options.up_down;
  return pair == Pair::kOv ? options.ov : options.norm_linear;
}

void smooth_pair(const hf::Config& config, const SmoothOptions& options, Pair pair,
                 const model::ActivationStats& stats, model::LayerWeights& weights) {
  const auto [group, source] = members_of(pair);
  const std::span<const Linear> targets = model::linears_of(group);
  std::vector<float> scales =
      factors(config, options, sizes_of(stats[group], options.statistic), targets, weights);
  if (const auto* norm = std::get_if<hf::Norm>(&source))
    divide(scales, weights[*norm]);
  else
    divide_outputs(pair == Pair::kOv ? share_over_heads(config, scales) : scales,
                   std::get<Linear>(source), weights);
  for (const Linear target : targets) multiply_columns(scales, weights[target]);
}

}  // namespace laos::smooth
