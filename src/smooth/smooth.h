// iter_smooth: moves outliers of activations into weights by factors that one module
// divides out and the next multiplies in; the layer's function stays the same.
#pragma once

#include <array>
#include <string>

#include "model/activation_stats.h"
#include "model/checkpoint.h"
#include "smooth/options.h"

namespace laos::smooth {

// Pairs of a decoder layer in the order they are smoothed, each with the source whose outputs are
// divided: up_proj -> down_proj, v_proj -> o_proj, input_layernorm -> q, k, v,
// post_attention_layernorm -> gate, up.
enum class Pair { kUpDown, kOv, kInputNorm, kPostAttentionNorm };
inline constexpr std::array<Pair, 4> kAllPairs = {Pair::kUpDown, Pair::kOv, Pair::kInputNorm,
                                                  Pair::kPostAttentionNorm};
// "model.layers.3.mlp.up_proj": what include and exclude patterns are matched against.
std::string source_of(const hf::Config& config, int64_t layer_idx, Pair pair);
// Whether `options` wants pairs of this kind at all.
bool is_enabled(const SmoothOptions& options, Pair pair) noexcept;

// s_j = max(scale_min, a_j^alpha / w_j^(1 - alpha)) rounded to the checkpoint's dtype, a_j the
// statistic of the targets' input channel j, w_j >= 1e-5 the largest |weight| of the targets in
// column j. Targets' columns are multiplied by s, the source's outputs divided; for kOv, s is the
// mean over the query heads that share a KV head. An s that is not finite or 0 counts as 1.
void smooth_pair(const hf::Config& config, const SmoothOptions& options, Pair pair,
                 const model::ActivationStats& stats, model::LayerWeights& weights);

}  // namespace laos::smooth
