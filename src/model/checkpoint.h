// A Hugging Face float checkpoint, opened and checked; weights are read a layer at a time.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "hf/layer_spec.h"
#include "io/safetensors.h"

namespace laos::model {

using hf::has_bias;
using hf::in_features;
using hf::is_attention;
using hf::kAllLinearGroups;
using hf::kAllLinears;
using hf::kNumLinears;
using hf::Linear;
using hf::LinearGroup;
using hf::linears_of;
using hf::name_of;
using hf::num_weights;
using hf::out_features;
using hf::path_of;
using hf::PerLinear;

// One decoder layer's weights in f32. A linear is [out_features, in_features], its bias [1,
// out_features]; norms are one row. What the family has not is empty.
struct LayerWeights {
  PerLinear<Mat<float>> linears;
  PerLinear<Mat<float>> biases;
  Mat<float> input_layernorm;           // [1, hidden_size]
  Mat<float> post_attention_layernorm;  // [1, hidden_size]
  Mat<float> q_norm;                    // [1, head_dim]
  Mat<float> k_norm;                    // [1, head_dim]

  Mat<float>& operator[](Linear l) noexcept { return linears[l]; }
  const Mat<float>& operator[](Linear l) const noexcept { return linears[l]; }
  Mat<float>& operator[](hf::Norm norm) noexcept;
  const Mat<float>& operator[](hf::Norm norm) const noexcept {
    return const_cast<LayerWeights&>(*this)[norm];
  }
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
  const TensorView& final_norm_tensor() const;

  std::filesystem::path directory_;
  hf::Config config_;
  io::TensorFiles files_;
  std::vector<std::string> warnings_;
};

// Rows [begin, end) of a [rows, cols] float tensor in f32.
Mat<float> rows_to_f32(const TensorView& tensor, int64_t begin, int64_t end);

}  // namespace laos::model
