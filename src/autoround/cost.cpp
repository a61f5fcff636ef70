#include "autoround/cost.h"

#include <algorithm>

namespace laos::autoround {

using model::Linear;
using model::LinearGroup;

namespace {

int64_t trained_weights(const hf::Config& config, const LayerScheme& scheme) {
  int64_t size = 0;
  for (int64_t i = 0; i < scheme.size(); ++i)
    if (const auto l = static_cast<Linear>(i); scheme[l]) size += model::num_weights(config, l);
  return size;
}

// Operations of one pass, from products of the layer's linears over `tokens` and of attention over
// causal query-key `pairs`.
struct PassCost {
  double per_token = 0, per_pair = 0;
  double operator()(double tokens, double pairs) const {
    return per_token * tokens + per_pair * pairs;
  }
};
struct PassCosts {
  PassCost before, forward, backward;
};

// Forward: one product a linear, and q kᵀ and p v. Backward: one product for the gradient of each
// trained weight and one for that of each linear's input but the first ones', five in attention.
// Where nothing of attention is trained it runs once, before, and is never differentiated.
PassCosts pass_costs(const hf::Config& config, const LayerScheme& scheme, int64_t layer_idx) {
  const double q_size = static_cast<double>(config.num_attention_heads * config.head_dim);
  const bool attention = trains_attention(scheme);
  PassCosts costs;
  const bool is_mixture = hf::is_mixture(config, layer_idx);
  for (const LinearGroup group : model::groups_in(config, layer_idx)) {
    const bool before = !attention && model::is_attention(group);
    const bool is_first =
        attention ? group == LinearGroup::kQkv : hf::kind_of(group) == LinearGroup::kGateUp;
    const double share = hf::share_of_tokens(config, group);
    for (const Linear l : model::linears_of(group)) {
      const double product = 2 * share * static_cast<double>(model::num_weights(config, l));
      // The float model's routes are found behind attention.
      if (is_mixture && model::is_attention(group)) costs.before.per_token += product;
      (before ? costs.before : costs.forward).per_token += product;
      if (scheme[l]) costs.backward.per_token += product;
      if (!before && !is_first) costs.backward.per_token += product;
    }
  }
  (attention ? costs.forward : costs.before).per_pair = 4 * q_size;
  if (is_mixture) costs.before.per_pair += 4 * q_size;
  costs.backward.per_pair = attention ? 10 * q_size : 0;
  return costs;
}

}  // namespace

TrainCost train_cost(const hf::Config& config, const LayerScheme& scheme,
                     const TrainOptions& options, const model::Ragged& samples, int64_t layer_idx) {
  const auto tokens = static_cast<double>(samples.num_tokens());
  const double pairs = model::causal_pairs(samples);
  const auto count = std::max(1.0, static_cast<double>(samples.num_sequences()));
  // Shares of the set that an iteration draws, on average, and that is measured on.
  const double drawn = std::min<double>(kSamplesPerIteration, count) / count;
  const double measured = std::min<double>(kEvaluationSamples, count) / count;
  // Before, after and of the rule's choice; with until_flat before and after each of three rounds.
  const double evaluated = (options.until_flat ? 4 : 3) * measured;
  const PassCosts costs = pass_costs(config, scheme, layer_idx);
  TrainCost cost;
  cost.iterations = static_cast<double>(options.iters) * drawn *
                    (costs.forward(tokens, pairs) + costs.backward(tokens, pairs));
  cost.flops =
      cost.iterations + costs.before(tokens, pairs) + evaluated * costs.forward(tokens, pairs);
  return cost;
}

int64_t applied_bytes(const hf::Config& config, const LayerScheme& scheme,
                      const TrainOptions& options) {
  const bool is_bf16 = options.compute == linalg::ComputeType::kBf16;
  return trained_weights(config, scheme) * ((is_bf16 ? 2 : 4) + 2);
}

int64_t aside_bytes(const hf::Config& config, const LayerScheme& scheme) {
  return trained_weights(config, scheme) * (4 + 2);
}

int64_t train_bytes(const hf::Config& config, const LayerScheme& scheme,
                    const TrainOptions& options, const model::Ragged& samples, bool rotates_inputs,
                    int64_t layer_idx) {
  const bool is_bf16 = options.compute == linalg::ComputeType::kBf16;
  const int64_t longest = model::longest_sample(samples), batch = largest_batch(samples),
                piece = std::min(batch, model::kPieceTokens);
  const bool is_mixture = hf::is_mixture(config, layer_idx),
             whole = !is_mixture && batch <= options.max_whole_tokens;
  const int64_t rows = whole ? batch : piece, trained = trained_weights(config, scheme);
  int64_t params = 0, widest = std::max(config.hidden_size, config.intermediate_size), block = 0;
  for (const Linear l : model::linears_in(config, layer_idx)) {
    const int64_t in = model::in_features(config, l);
    params += model::num_weights(config, l);
    widest = std::max(widest, in);
    if (scheme[l])
      block = std::max(block, gradient_block_bytes(model::out_features(config, l), in));
  }
  int64_t bytes = applied_bytes(config, scheme, options);
  // The weights that are not trained, in bf16 rounded besides; gradients that batches in pieces add
  // to.
  bytes += (params - trained) * (is_bf16 ? 6 : 4) + (whole ? 0 : 4 * trained);
  bytes += model::LayerSaved<float>::size_bytes(config, rows, true, whole ? 0 : longest);
  bytes += 4 * (piece + rows) * config.hidden_size;  // inputs, outputs
  if (is_bf16) bytes += 4 * rows * widest;           // operands of a product
  if (!is_bf16 && whole) bytes += block;
  if (options.act_aware) bytes += 4 * rows * widest;  // a rounded input
  if (rotates_inputs) bytes += 4 * rows * widest;
  if (is_mixture) bytes += TokenRoutes::size_bytes(config, samples.num_tokens());
  return bytes;
}

}  // namespace laos::autoround
