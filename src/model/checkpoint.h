// A Hugging Face float checkpoint, opened and checked; weights are read a layer at a time.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "io/safetensors.h"

namespace laos::model {

// The seven linears of a decoder layer, in module order.
enum class Linear { kQProj, kKProj, kVProj, kOProj, kGateProj, kUpProj, kDownProj };
inline constexpr int kNumLinears = 7;
inline constexpr std::array<Linear, kNumLinears> kAllLinears = {
    Linear::kQProj,    Linear::kKProj,  Linear::kVProj,   Linear::kOProj,
    Linear::kGateProj, Linear::kUpProj, Linear::kDownProj};

// "self_attn.q_proj", ..., "mlp.down_proj": the module's path inside its decoder layer.
std::string_view path_of(Linear linear) noexcept;
// "model.layers.3.mlp.up_proj": the full module name.
std::string name_of(int64_t layer_idx, Linear linear);
int64_t out_features(const hf::Config& config, Linear linear) noexcept;
int64_t in_features(const hf::Config& config, Linear linear) noexcept;

// One decoder layer's weights in f32. linears[l] is [out_features, in_features]; norms are one row.
struct LayerWeights {
  std::array<Mat<float>, kNumLinears> linears;
  Mat<float> input_layernorm;           // [1, hidden_size]
  Mat<float> post_attention_layernorm;  // [1, hidden_size]
  Mat<float> q_norm;                    // [1, head_dim]
  Mat<float> k_norm;                    // [1, head_dim]

  Mat<float>& operator[](Linear l) noexcept { return linears[static_cast<size_t>(l)]; }
  const Mat<float>& operator[](Linear l) const noexcept { return linears[static_cast<size_t>(l)]; }
};

// The checkpoint directory, mapped. Opening checks that every tensor the config implies exists with
// its shape and a float dtype, and that no unknown tensor is there (rotary inv_freq buffers are
// ignored, and so is the lm_head of a tied model that repeats embed_tokens). A tied model with a
// head of its own is read as untied.
class Checkpoint {
 public:
  // Throws Error: kIo, kFormat, kShape, kUnsupported; all problems of a kind at once.
  static Checkpoint open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const noexcept { return directory_; }
  const hf::Config& config() const noexcept { return config_; }
  const io::TensorFiles& files() const noexcept { return files_; }
  // What a user should know of how it was read.
  const std::vector<std::string>& warnings() const noexcept { return warnings_; }

  // The layer's weights widened to f32. Throws Error(kNumeric) naming tensor, row and column of the
  // first NaN or infinity.
  LayerWeights load_layer(int64_t layer_idx) const;
  TensorView embed_tokens() const;  // [vocab_size, hidden_size]
  TensorView lm_head() const;       // [vocab_size, hidden_size]; embed_tokens when tied
  Mat<float> final_norm() const;    // [1, hidden_size]; Error(kNumeric) as load_layer

  // Takes the pages of the files that have been read out of the process; load_layer and
  // check_head_finite do so themselves.
  void drop_pages() const noexcept { files_.drop_pages(); }

  // Throws Error(kNumeric) for the first NaN or infinity in embed_tokens, lm_head or the final
  // norm.
  void check_head_finite() const;

 private:
  std::filesystem::path directory_;
  hf::Config config_;
  io::TensorFiles files_;
  std::vector<std::string> warnings_;
};

// Rows [begin, end) of a [rows, cols] float tensor in f32.
Mat<float> rows_to_f32(const TensorView& tensor, int64_t begin, int64_t end);

}  // namespace laos::model
