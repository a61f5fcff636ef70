// The weights a model of some config consists of: their names, shapes and order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "hf/layer_spec.h"

namespace laos::hf {

// One module: it owns `name` + ".weight" and, where `has_bias`, `name` + ".bias" [out_features].
struct WeightModule {
  enum class Kind { kLinear, kRouter, kNorm, kEmbedding, kHead };

  std::string name;  // "model.layers.3.mlp.up_proj"
  Kind kind = Kind::kLinear;
  Shape shape;  // of the weight: [out_features, in_features], [rows, hidden_size] or [features]
  bool has_bias = false;
  int64_t layer_idx = -1;  // of its decoder layer, -1 outside of them

  std::string weight_name() const { return name + ".weight"; }
  std::string bias_name() const { return name + ".bias"; }
};

// Every module of the model, lm_head also when tied, in the order that checkpoints are written in:
// each decoder layer's attention linears, norms of queries and keys, MLP linears, routers and
// norms; then embed_tokens, norm, lm_head. kLinear are the decoder layers' linears only.
std::vector<WeightModule> weight_modules(const Config& config);

// Names of the modules outside of the decoder layers.
std::string embed_tokens_name(const Config& config);
std::string final_norm_name(const Config& config);
std::string lm_head_name(const Config& config);

// The linears that serving engines fuse into one, as paths inside a layer: q, k, v; gate, up; and
// all linears of routed experts, of which engines read the label of the first alone. A group's
// linears must share a label. Those of one layer, and those that some layer has.
std::vector<std::vector<std::string>> fused_groups(const Config& config, int64_t layer_idx);
std::vector<std::vector<std::string>> fused_groups(const Config& config);
// Of the labels of a group's members the places of those that show how they differ: all where
// they are few, else the first with each label. None where they are the same.
std::vector<size_t> differing(const std::vector<std::string>& labels);

}  // namespace laos::hf
