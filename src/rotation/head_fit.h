// head_rotation: an orthogonal matrix for each KV head, fitted to what o_proj reads. It takes the
// place of nothing: it turns the value head's outputs, and o_proj turns them back, in whatever
// basis they are, so that the layer's function stays the same and no tensor is added.
#pragma once

#include <cstdint>
#include <vector>

#include "model/decoder_layer.h"
#include "rotation/options.h"

namespace laos::rotation {

// Rows that a fit sees, at most.
inline constexpr int64_t kHeadFitRows = 4096;

// What o_proj reads, every so manyth of `num_tokens` tokens of a layer.
class HeadRows {
 public:
  HeadRows(const hf::Config& config, int64_t num_tokens);
  // A piece of the samples, as forward_all shows it: all pieces, in order.
  void observe(const model::LayerSaved<float>& saved, int64_t num_tokens);
  // [rows, num_attention_heads * head_dim]
  Mat<float> take() &&;

 private:
  int64_t stride_, num_seen_ = 0, num_kept_ = 0;
  Mat<float> rows_;
};

// Orthogonal [head_dim, head_dim] matrices R, one a KV head, that make the mean of range² of the
// rows small whose part of query head h is multiplied by the R of its KV head: fit_range_blocks at
// 4 bits. Empty where nothing is won.
std::vector<Mat<float>> fit_heads(const hf::Config& config, const Mat<float>& rows,
                                  const HeadFitOptions& options);

// v <- Rᵀ v per KV head and o <- o R per query head. Nothing where `heads` is empty.
void rotate_heads(const hf::Config& config, const std::vector<Mat<float>>& heads,
                  model::LayerWeights& weights);

// Operations and bytes at once of HeadRows and fit_heads, of a layer that sees `num_tokens`.
double head_fit_flops(const hf::Config& config, const HeadFitOptions& options, int64_t num_tokens);
int64_t head_fit_bytes(const hf::Config& config, int64_t num_tokens);

}  // namespace laos::rotation
