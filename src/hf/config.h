// `config.json` of a Hugging Face checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace laos::hf {

// Limits of a config.json.
inline constexpr int64_t kMaxConfigBytes = 1'000'000;
inline constexpr int64_t kMaxConfigValues = 100'000;

struct Family;
const Family& default_family() noexcept;
std::span<const Family> families() noexcept;

// How rotary embeddings reach beyond the length that the model was trained at. Fields are spelled
// as in rope_scaling (transformers 4) and rope_parameters (5); absent ones have transformers'
// defaults.
struct RopeScaling {
  enum class Type { kDefault, kLinear, kDynamic, kLlama3, kYarn };

  Type type = Type::kDefault;
  double factor = 1;
  int64_t original_max_position_embeddings = 0;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  double attention_factor = 1;                       // yarn: cos and sin are multiplied by it
  bool truncate = true;                              // yarn: whole dimensions only

  bool operator==(const RopeScaling&) const = default;
};

// Fields are spelled as in config.json. Read from what transformers 4 writes (rope_theta,
// torch_dtype) and from what transformers 5 writes (rope_parameters, dtype, layer_types).
struct Config {
  std::string architecture;                  // "Qwen3ForCausalLM"
  const Family* family = &default_family();  // names and norms; never null
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  // Tokens that attention looks back at most, of itself on; 0 = all. Longer samples are refused.
  int64_t sliding_window = 0;
  bool qkv_bias = false;  // q_proj, k_proj and v_proj have biases
  bool o_bias = false;
  bool mlp_bias = false;  // gate_proj, up_proj and down_proj
  // Of mixtures; num_experts 0: every layer has one MLP of intermediate_size.
  int64_t num_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t moe_intermediate_size = 0;            // of a routed expert
  int64_t shared_expert_intermediate_size = 0;  // 0: there is no shared expert
  bool norm_topk_prob = false;                  // weights of a token's experts are made to add to 1
  int64_t decoder_sparse_step = 1;              // every so many layers one has experts
  std::vector<int64_t> mlp_only_layers;         // these have none
  bool tie_word_embeddings = false;
  DType dtype = DType::kBF16;
  int64_t eos_token_id = -1;  // -1 when absent; the first of a list
};

// "bfloat16", "float16" or "float32": as config.json says a float dtype.
std::string_view dtype_name(DType dtype) noexcept;

// Reads and checks directory/config.json. Absent fields get the family's defaults. Throws, all
// problems of a kind at once: Error(kUnsupported) for an architecture that is not among `known` (by
// name, with the known ones), kinds of rope scaling and of layers that are not computed, a
// hidden_act other than silu, other dtypes, or a quantization_config; Error(kFormat) for malformed
// JSON, a missing field, a wrong type, a size below 1 or absurdly large, num_attention_heads not a
// multiple of num_key_value_heads, an odd head_dim; Error(kIo).
Config read_config(const std::filesystem::path& directory,
                   std::span<const Family> known = families());
// The same of a checkpoint that is quantized: quantization_config is left to the reader of its
// format.
Config read_config_of_quantized(const std::filesystem::path& directory);

}  // namespace laos::hf
