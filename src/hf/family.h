// Model families: what an architecture of config.json means for a decoder layer.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "hf/layer_spec.h"

namespace laos::hf {

// Names of the modules of a model.
struct ModuleNames {
  std::string_view layers;            // what layer numbers follow: "model.layers"
  PerKind<std::string_view> linears;  // inside a layer
  std::array<std::string_view, kAllNorms.size()> norms;  // inside a layer, by Norm
  std::string_view embed_tokens, norm, lm_head;
  // Of mixtures, inside a layer: what experts' numbers follow, the shared expert, and by Router.
  // The last parts of linears' paths are those of a dense layer.
  std::string_view experts = "mlp.experts", shared_expert = "mlp.shared_expert";
  std::array<std::string_view, kAllRouters.size()> routers = {"mlp.gate", "mlp.shared_expert_gate"};
};

// How a family says that its attention looks at no more than the last tokens.
enum class WindowKey {
  kNone,              // it has none
  kAlways,            // `sliding_window`, unless null, binds in every layer (Mistral)
  kUseSlidingWindow,  // `sliding_window` binds only where `use_sliding_window` is true (Qwen), from
                      // layer `max_window_layers` on
  kUseInAll           // the same in every layer (Qwen's mixtures)
};

// A row of the table: one `architectures` entry of config.json. Defaults are those that
// transformers gives to fields that config.json leaves out.
struct Family {
  std::string_view architecture;  // "LlamaForCausalLM"
  std::string_view model_type;    // "llama"
  ModuleNames names;
  bool qk_norm = false;         // an RMSNorm over each head of queries and keys
  bool qkv_bias = false;        // q, k and v have biases, whatever config.json says
  bool attention_bias = false;  // the field attention_bias counts: biases of q, k, v and o
  bool default_attention_bias = false;
  std::string_view o_bias_key = "attention_bias";  // the field that counts for o
  bool mlp_bias = false;                           // the field mlp_bias counts
  WindowKey window = WindowKey::kNone;
  int64_t default_sliding_window = 0;  // of a config.json without `sliding_window`; 0 = none
  int64_t default_head_dim = 0;        // 0: hidden_size / num_attention_heads
  int64_t default_max_position_embeddings = 0;
  bool default_kv_heads_are_heads = false;  // num_key_value_heads may be left out
  bool experts = false;        // layers have experts, but for those that the config names
  bool shared_expert = false;  // besides, one that all tokens go to
};

// Every family that laos knows.
std::span<const Family> families() noexcept;
// The family whose names and norms a Config without one has: Qwen3's.
const Family& default_family() noexcept;

}  // namespace laos::hf
