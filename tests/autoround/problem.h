// A layer to train.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

#include "autoround/train_layer.h"
#include "support/random.h"

namespace laos::autoround {

// A small random layer with inputs and float targets.
struct Problem {
  hf::Config config;
  mutable model::LayerWeights weights;  // training puts them aside and back
  model::HiddenStates inputs, targets;
  LayerScheme scheme;

  explicit Problem(int64_t num_samples, int bits = 4)
      : Problem(
            [&] {
              std::vector<int64_t> lengths;
              for (int64_t s = 0; s < num_samples; ++s) lengths.push_back(3 + s % 5);
              return lengths;
            }(),
            bits) {}
  explicit Problem(const std::vector<int64_t>& lengths, int bits = 4) {
    config.hidden_size = 32;
    config.intermediate_size = 48;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.head_dim = 8;
    uint32_t seed = 10;
    for (const model::Linear l : model::kAllLinears) {
      const int64_t in = model::in_features(config, l);
      weights[l] = test::normal_matrix(model::out_features(config, l), in, ++seed,
                                       1 / std::sqrt(static_cast<float>(in)));
      scheme[l] = quant::LinearScheme{{.bits = bits}, {.bits = bits}};
    }
    for (Mat<float>* gain : {&weights.input_layernorm, &weights.post_attention_layernorm,
                             &weights.q_norm, &weights.k_norm}) {
      const bool head = gain == &weights.q_norm || gain == &weights.k_norm;
      *gain = Mat<float>(1, head ? config.head_dim : config.hidden_size);
      std::fill_n(gain->data(), gain->size(), 1.0f);
    }
    for (const int64_t length : lengths) inputs.samples.append(length);
    inputs.rows = test::normal_matrix(inputs.samples.num_tokens(), config.hidden_size, 3);
    aim();
  }
  // Makes what the float layer gives the targets.
  void aim() {
    targets.samples = inputs.samples;
    targets.rows = Mat<float>(inputs.rows.rows(), config.hidden_size);
    model::FloatLinears<float> linears(model::views_of(weights));
    model::LayerSaved<float> saved(config, inputs.rows.rows(), false);
    model::forward_all(config, model::norms_of(weights), linears, rope(), inputs, 100'000, saved,
                       &targets);
  }
  model::Rope<float> rope() const {
    return model::Rope<float>(config, model::longest_sample(inputs.samples));
  }
  LayerResult train(const TrainOptions& options, uint32_t seed = 42,
                    const std::filesystem::path& directory = {},
                    const TrainProgress& progress = nullptr) const {
    return train_layer({.config = config,
                        .weights = weights,
                        .scheme = scheme,
                        .rope = rope(),
                        .inputs = inputs,
                        .targets = targets,
                        .seed = seed,
                        .directory = directory},
                       options, progress);
  }
};

}  // namespace laos::autoround
