#include "hf/model_tensors.h"

namespace laos::hf {

std::vector<WeightModule> weight_modules(const Config& config) {
  using Kind = WeightModule::Kind;
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t key_value = config.num_key_value_heads * config.head_dim;
  const std::vector<WeightModule> layer = {
      {"self_attn.q_proj", Kind::kLinear, {query, hidden}},
      {"self_attn.k_proj", Kind::kLinear, {key_value, hidden}},
      {"self_attn.v_proj", Kind::kLinear, {key_value, hidden}},
      {"self_attn.o_proj", Kind::kLinear, {hidden, query}},
      {"self_attn.q_norm", Kind::kNorm, {config.head_dim}},
      {"self_attn.k_norm", Kind::kNorm, {config.head_dim}},
      {"mlp.gate_proj", Kind::kLinear, {intermediate, hidden}},
      {"mlp.up_proj", Kind::kLinear, {intermediate, hidden}},
      {"mlp.down_proj", Kind::kLinear, {hidden, intermediate}},
      {"input_layernorm", Kind::kNorm, {hidden}},
      {"post_attention_layernorm", Kind::kNorm, {hidden}},
  };

  std::vector<WeightModule> modules;
  for (int64_t layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx)
    for (const WeightModule& module : layer)
      modules.push_back({"model.layers." + std::to_string(layer_idx) + "." + module.name,
                         module.kind, module.shape});
  modules.push_back({"model.embed_tokens", Kind::kEmbedding, {config.vocab_size, hidden}});
  modules.push_back({"model.norm", Kind::kNorm, {hidden}});
  modules.push_back({"lm_head", Kind::kHead, {config.vocab_size, hidden}});
  return modules;
}

const std::vector<std::vector<std::string>>& fused_groups() {
  static const std::vector<std::vector<std::string>> groups = {
      {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
      {"mlp.gate_proj", "mlp.up_proj"}};
  return groups;
}

}  // namespace laos::hf
