// A Hugging Face float checkpoint, opened and checked; weights are read a layer at a time.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "hf/layer_spec.h"
#include "io/safetensors.h"

namespace laos::model {

using hf::groups_in;
using hf::has_bias;
using hf::in_features;
using hf::is_attention;
using hf::is_mixture;
using hf::kAllLinearGroups;
using hf::kAllLinears;
using hf::kNumLinears;
using hf::Linear;
using hf::LinearGroup;
using hf::linears_in;
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
  Mat<float> router;                    // [num_experts, hidden_size]
  Mat<float> shared_expert_gate;        // [1, hidden_size]

  Mat<float>& operator[](Linear l) { return linears[l]; }
  const Mat<float>& operator[](Linear l) const { return linears[l]; }
  Mat<float>& operator[](hf::Norm norm) noexcept;
  const Mat<float>& operator[](hf::Norm norm) const noexcept {
    return const_cast<LayerWeights&>(*this)[norm];
  }
  Mat<float>& operator[](hf::Router which) noexcept {
    return which == hf::Router::kExperts ? router : shared_expert_gate;
  }
  const Mat<float>& operator[](hf::Router which) const noexcept {
    return const_cast<LayerWeights&>(*this)[which];
  }
};

// Their weights, one below the other: [sum of out_features, in_features]. All read the same inputs.
Mat<float> stack(const LayerWeights& weights, std::span<const Linear> linears);

// The checkpoint directory, mapped. Opening checks that every tensor the config implies exists with
// its shape and a float dtype, and that no unknown tensor is there (rotary inv_freq buffers are
// ignored, and so is the lm_head of a tied model that repeats embed_tokens). A tied model with a
// head of its own is read as untied.
class Checkpoint {
 public:
  // `families`: that its config.json may name; must outlive this. Throws Error: kIo, kFormat,
  // kShape, kUnsupported; all problems of a kind at once.
  static Checkpoint open(const std::filesystem::path& directory,
                         std::span<const hf::Family> families = hf::families());

  const std::filesystem::path& directory() const noexcept { return directory_; }
  const hf::Config& config() const noexcept { return config_; }
  const io::TensorFiles& files() const noexcept { return files_; }
  // What a user should know of how it was read.
  const std::vector<std::string>& warnings() const noexcept { return warnings_; }

  // The layer's weights widened to f32. Throws Error(kNumeric) naming tensor, row and column of the
  // first NaN or infinity.
  LayerWeights load_layer(int64_t layer_idx) const;
  // Where its tensors lie; none of a layer that there is not.
  std::vector<std::span<const std::byte>> bytes_of_layer(int64_t layer_idx) const;
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
// The same into `target`; the second throws Error(kNumeric) as Checkpoint::load_layer.
void rows_to_f32(const TensorView& tensor, int64_t begin, int64_t end, float* target);
void finite_rows_to_f32(const TensorView& tensor, int64_t begin, int64_t end, float* target);

// Whether a float tensor has neither NaN nor infinity.
bool is_finite(const TensorView& tensor);

}  // namespace laos::model
