// Decoder layers of random weights, and running them.
#pragma once

#include <cmath>

#include "model/decoder_layer.h"
#include "model/online_transform.h"
#include "support/random.h"

namespace laos::test {

// Weights of variance 1 / in; gains around 1, those of the layer's norms with `norm_sigma`; biases
// and norms of heads where the config has them.
inline model::LayerWeights random_layer(const hf::Config& config, float norm_sigma) {
  model::LayerWeights weights;
  uint32_t seed = 1;
  for (const model::Linear l : model::kAllLinears) {
    const int64_t in = model::in_features(config, l);
    weights[l] = normal_matrix(model::out_features(config, l), in, ++seed,
                               1 / std::sqrt(static_cast<float>(in)));
    if (model::has_bias(config, l))
      weights.biases[l] = normal_matrix(1, model::out_features(config, l), 30 + seed, 1);
  }
  weights.input_layernorm = normal_matrix(1, config.hidden_size, 20, norm_sigma, 1);
  weights.post_attention_layernorm = normal_matrix(1, config.hidden_size, 21, norm_sigma, 1);
  if (hf::size_of(config, hf::Norm::kQNorm) == 0) return weights;
  weights.q_norm = normal_matrix(1, config.head_dim, 22, 0.3f, 1);
  weights.k_norm = normal_matrix(1, config.head_dim, 23, 0.3f, 1);
  return weights;
}

// What the float layer gives for `x`, a sequence of five tokens and one of the rest.
inline Mat<float> run_layer(const hf::Config& config, const model::LayerWeights& weights,
                            const Mat<float>& x, const model::OnlineTransforms& online = {}) {
  model::Ragged batch;
  batch.append(5);
  batch.append(x.rows() - 5);
  model::FloatLinears<float> float_linears(model::views_of(weights));
  model::OnlineLinears linears(online, float_linears);
  model::LayerSaved<float> saved(config, x.rows(), false);
  Mat<float> y(x.rows(), x.cols());
  model::layer_forward<float>(config, model::norms_of(weights), linears,
                              model::Rope<float>(config, x.rows()), batch, x.view(), saved,
                              y.view());
  return y;
}

}  // namespace laos::test
