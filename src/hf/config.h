// `config.json` of a Hugging Face checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/dtype.h"

namespace laos::hf {

// Limits of a config.json.
inline constexpr int64_t kMaxConfigBytes = 1'000'000;
inline constexpr int64_t kMaxConfigValues = 100'000;

// Fields are spelled as in config.json. Read from what transformers 4 writes (rope_theta,
// torch_dtype) and from what transformers 5 writes (rope_parameters, dtype, layer_types).
struct Config {
  std::string architecture;  // "Qwen3ForCausalLM"
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
  bool tie_word_embeddings = false;
  DType dtype = DType::kBF16;
  int64_t eos_token_id = -1;  // -1 when absent; the first of a list
};

// Reads and checks directory/config.json. Absent head_dim, max_position_embeddings, rms_norm_eps,
// rope_theta and tie_word_embeddings get Qwen3's defaults. Throws, all problems of a kind at once:
// Error(kUnsupported) for an unknown architecture (by name, with the known ones), rope scaling,
// sliding windows, attention_bias, a hidden_act other than silu, other dtypes, or a
// quantization_config; Error(kFormat) for malformed JSON, a missing field, a wrong type, a size
// below 1 or absurdly large, num_attention_heads not a multiple of num_key_value_heads, an odd
// head_dim; Error(kIo).
Config read_config(const std::filesystem::path& directory);

}  // namespace laos::hf
