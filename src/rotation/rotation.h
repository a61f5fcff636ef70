// Changes of weights that keep the function: norm folding and rotation of the residual stream and
// of the value heads. All in f32; nothing is rounded here.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "linalg/hadamard.h"
#include "model/checkpoint.h"
#include "model/online_transform.h"
#include "rotation/options.h"

namespace laos::rotation {

// W <- W diag(gain) for the linears behind each norm (input_layernorm: q, k, v;
// post_attention_layernorm: gate, up and routers), then gains <- 1. q_norm and k_norm stay.
void fold_norms(model::LayerWeights& weights);

// W <- W diag(gain) for rows [n, hidden_size] of lm_head; gain [1, hidden_size] is the final
// norm's.
void fold_into_rows(const Mat<float>& gain, MatView<float> rows);

// An orthogonal matrix R applied from either side: a fast Hadamard transform or a dense matrix.
class Rotation {
 public:
  explicit Rotation(linalg::RandomHadamard hadamard) : hadamard_(std::move(hadamard)) {}
  // `dense` [n, n] orthogonal.
  explicit Rotation(Mat<float> dense) : dense_(std::move(dense)) {}

  int64_t size() const noexcept { return hadamard_ ? hadamard_->size() : dense_.rows(); }
  // w [m, n] <- w R.
  void apply_right(MatView<float> w) const;
  // w [n, m] <- Rᵀ w.
  void apply_left_transposed(MatView<float> w) const;
  Mat<float> matrix() const;

 private:
  std::optional<linalg::RandomHadamard> hadamard_;
  Mat<float> dense_;
};

// intermediate_size = first * second for the online rotation of down_proj: as near to its root as
// Hadamard factors of at most 256 allow. nullopt when there are none.
std::optional<std::pair<int64_t, int64_t>> kronecker_factors(int64_t intermediate_size) noexcept;

// R for the residual stream [hidden_size], U for each value head [head_dim], and what is rotated
// while the model runs.
struct ModelRotation {
  Rotation residual;
  Rotation head;
  model::OnlineTransforms online = {};  // both null unless options.online
  std::vector<int64_t> down_online_layers = {};

  // The part of `online` that layer `layer_idx` has.
  model::OnlineTransforms online_of(int64_t layer_idx) const;
};

// The Hadamard rotations of `options`, or `fitted` [hidden_size, hidden_size] as R when it is
// given. Throws Error(kUnsupported) when RandomHadamard has no matrix of a dimension, the block
// size (or max_tp_size, for online rotations) does not divide it, or intermediate_size has no
// factors.
ModelRotation make_rotation(const hf::Config& config, const RotateOptions& options,
                            std::optional<Mat<float>> fitted);

// Rotates a layer whose norms are folded: q, k, v, gate, up and routers <- W R; o, down <- Rᵀ W;
// then v <- Uᵀ v per KV head and o <- o U per query head. A bias, which is a row of outputs, turns
// with them: b R of o and down, b U per head of v.
void rotate_layer(const hf::Config& config, const ModelRotation& rotation,
                  model::LayerWeights& weights);
// Makes up in the weights for rotating the inputs of o_proj and down_proj.
void rotate_online(const model::OnlineTransforms& online, model::LayerWeights& weights);

}  // namespace laos::rotation
