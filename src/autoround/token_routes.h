// Where the tokens of a layer with experts go in the float model, which is where they go while its
// linears are trained.
#pragma once

#include <cstdint>
#include <vector>

#include "model/decoder_layer.h"
#include "model/hidden_states.h"
#include "model/online_transform.h"

namespace laos::autoround {

// Of token i, a row of the hidden states, experts [k i] to [k i + k - 1], in order, and their
// weights; k = num_experts_per_tok. Of samples that were not asked for zeros.
struct TokenRoutes {
  std::vector<int32_t> experts;
  std::vector<float> weights;

  static int64_t size_bytes(const hf::Config& config, int64_t num_tokens) noexcept {
    return config.num_experts_per_tok * num_tokens * int64_t{sizeof(int32_t) + sizeof(float)};
  }
};

// Runs attention of a layer with experts over `samples` of `inputs` and asks its router. `weights`
// are float.
TokenRoutes routes_of(const hf::Config& config, const model::LayerWeights& weights,
                      const model::OnlineTransforms& online, const model::Rope<float>& rope,
                      const model::HiddenStates& inputs, const std::vector<int64_t>& samples);

}  // namespace laos::autoround
