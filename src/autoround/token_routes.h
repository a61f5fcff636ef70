// Where the tokens of a layer with experts go in the float model, which is where they go while its
// linears are trained.
#pragma once

#include <cstdint>
#include <vector>

#include "model/decoder_layer.h"
#include "model/hidden_states.h"
#include "model/online_transform.h"

namespace laos::autoround {

using model::TokenRoutes;

// Runs attention of a layer with experts over `samples` of `inputs` and asks its router. Tokens are
// rows of `inputs`; those of other samples have zeros. `weights` are float.
TokenRoutes routes_of(const hf::Config& config, const model::LayerWeights& weights,
                      const model::OnlineTransforms& online, const model::Rope<float>& rope,
                      const model::HiddenStates& inputs, const std::vector<int64_t>& samples);

}  // namespace laos::autoround
