#include "autoround/token_routes.h"

#include <algorithm>

namespace laos::autoround {

TokenRoutes routes_of(const hf::Config& config, const model::LayerWeights& weights,
                      const model::OnlineTransforms& online, const model::Rope<float>& rope,
                      const model::HiddenStates& inputs, const std::vector<int64_t>& samples) {
  const int64_t k = config.num_experts_per_tok;
  TokenRoutes routes;
  routes.experts.resize(static_cast<size_t>(inputs.rows.rows() * k));
  routes.weights.resize(routes.experts.size());
  int64_t longest = 1;
  for (const int64_t s : samples) longest = std::max(longest, inputs.samples.length(s));
  model::LayerSaved<float> saved(config, std::min(longest, model::kPieceTokens), false, longest);
  const model::LayerNorms<float> norms = model::norms_of(weights);
  model::FloatLinears<float> plain(model::views_of(weights));
  model::OnlineLinears linears(online, plain);
  for (const int64_t s : samples) {
    const int64_t first = inputs.samples.offsets[static_cast<size_t>(s)];
    model::Ragged sample;
    sample.append(inputs.samples.length(s));
    for (const model::Piece& piece : model::pieces_of(sample, model::kPieceTokens)) {
      const int64_t begin = first + piece.begin, n = piece.batch.num_tokens();
      model::attention_half_forward<float>(config, norms, linears, rope, piece.batch,
                                           inputs.rows.view().slice_rows(begin, begin + n), saved);
      inputs.rows.drop(begin, begin + n);
      model::route_mixture<float>(config, norms, saved, n);
      const TokenRoutes routed = model::routes_by_token(config, saved.mixture);
      std::ranges::copy(routed.experts, routes.experts.begin() + begin * k);
      std::ranges::copy(routed.weights, routes.weights.begin() + begin * k);
    }
  }
  return routes;
}

}  // namespace laos::autoround
