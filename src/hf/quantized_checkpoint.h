// A quantized checkpoint of any format, as those read it who compute with it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "io/safetensors.h"
#include "scheme/schemes.h"

namespace laos::hf {

// What undoes the integers of a linear with static activations: y = deq_scale * (x_q w_qᵀ +
// quant_bias) with x_q = round(x / scale) + offset.
struct StaticInput {
  float scale = 1;
  float offset = 0;  // an integer, -128..127
  std::vector<float> deq_scale;
  std::vector<int32_t> quant_bias;
  bool holds_bias = false;  // quant_bias holds the linear's bias too
};

// What an engine does to a linear's inputs before it quantizes them: see
// scheme::Scheme::transforms.
struct InputPair {
  Mat<float> left, right;  // [l, l], [r, r]: l * r inputs share them, or a block of so many
  float clip = 1;          // as model::KroneckerTransform::clip
};

// Of the channels of attention's cached keys and values, [num_key_value_heads * head_dim] each; the
// cache holds int8 codes. See model::round_to_cache.
struct CacheScales {
  std::vector<float> keys, values;
};

// Mapped and checked, so that every accessor below has what it returns. Codes and scales are not
// scanned. Views live as long as this.
class QuantizedCheckpoint {
 public:
  virtual ~QuantizedCheckpoint() = default;

  const Config& config() const noexcept { return config_; }
  const io::TensorFiles& files() const noexcept { return files_; }

  // Label of its scheme (scheme/schemes.h), of a module of weight_modules(config()), as
  // "model.layers.3.mlp.up_proj". A tied lm_head without a tensor of its own has the label of
  // embed_tokens.
  virtual const std::string& label(const std::string& module) const = 0;
  // A float module's weight, F32, BF16 or F16. embed_tokens for a tied lm_head without a tensor of
  // its own.
  virtual const TensorView& weight(const std::string& module) const = 0;
  // The codes of a quantized linear [out_features, in_features] where they lie, a byte each; no
  // data when they are packed.
  virtual MatView<const int8_t> stored_codes(const std::string& module) const = 0;
  // The same, unpacked.
  virtual Mat<int8_t> codes(const std::string& module) const = 0;
  // [out_features * num_groups]
  virtual std::vector<float> weight_scale(const std::string& module) const = 0;
  // Of a linear whose label has static activations.
  virtual StaticInput static_input(const std::string& module) const = 0;
  // Of a linear whose label has one.
  virtual std::optional<InputPair> input_pair(const std::string& /*module*/) const {
    return std::nullopt;
  }
  // The matrix of an online rotation at this linear, "heads_rotation" ...; empty when there is
  // none.
  virtual std::vector<float> online_rotation(const std::string& /*module*/,
                                             const std::string& /*suffix*/) const {
    return {};
  }
  // Of a layer; nullopt where its cache holds floats.
  virtual std::optional<CacheScales> cache_scales(int64_t /*layer_idx*/) const {
    return std::nullopt;
  }

 protected:
  QuantizedCheckpoint(Config config, io::TensorFiles files)
      : config_(std::move(config)), files_(std::move(files)) {}
  QuantizedCheckpoint(QuantizedCheckpoint&&) = default;
  // `module`, or embed_tokens for a tied lm_head without a tensor of its own.
  std::string owner(const std::string& module) const;

  Config config_;
  io::TensorFiles files_;
};

// The format of the quantized checkpoint that the directory says it holds; nullopt for any that is
// not read here. Never throws.
std::optional<scheme::CheckpointFormat> format_of(const std::filesystem::path& directory);
// Throws Error as the reader of its format does; null when it is not quantized.
std::unique_ptr<QuantizedCheckpoint> open_quantized(const std::filesystem::path& directory);

}  // namespace laos::hf
