// The weights a model of some config consists of: their names, shapes and order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"

namespace laos::hf {

// One module that owns exactly one tensor, `name` + ".weight" (Qwen3 has no biases).
struct WeightModule {
  enum class Kind { kLinear, kNorm, kEmbedding, kHead };

  std::string name;  // "model.layers.3.mlp.up_proj"
  Kind kind = Kind::kLinear;
  Shape shape;  // [out_features, in_features], [rows, hidden_size] or [features]

  std::string weight_name() const { return name + ".weight"; }
};

// Every weight of the model, lm_head also when tied, in save order (spec 10.1): each decoder
// layer's q, k, v, o, q_norm, k_norm, gate, up, down, input_layernorm, post_attention_layernorm;
// then embed_tokens, norm, lm_head. kLinear are the decoder layers' linears only.
std::vector<WeightModule> weight_modules(const Config& config);

// The linears that serving engines fuse into one, as the last parts of their names: q, k, v and
// gate, up (spec 10.7). A group's linears must share a label.
const std::vector<std::vector<std::string>>& fused_groups();

}  // namespace laos::hf
