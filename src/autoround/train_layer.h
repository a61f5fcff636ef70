// AutoRound on one decoder layer: its linears learn how to round, so that the layer gives what the
// float layer gives.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "autoround/token_routes.h"
#include "autoround/trainable_linears.h"
#include "model/hidden_states.h"
#include "model/online_transform.h"

namespace laos::autoround {

// Samples that an iteration draws, and that losses are measured on, at most.
inline constexpr int64_t kSamplesPerIteration = 8;
inline constexpr int64_t kEvaluationSamples = 32;

// All losses are mean absolute errors of the layer's output per element.
struct LayerReport {
  double rounding_loss = 0;    // of plain rounding, on the samples that are measured on
  double loss = 0;             // of what was kept, on the same samples
  int64_t kept_iteration = 0;  // 0 = plain rounding, k = the parameters that iteration k (from 1)
                               // used, losses.size() + 1 = those after the last update
  std::vector<double> losses;  // of each iteration, on its own samples
};

struct LayerResult {
  LayerCodes weights;  // entries of linears that the scheme leaves float are empty
  LayerReport report;
};

// Called after each iteration with its number (from 1) and loss.
using TrainProgress = std::function<void(int64_t iteration, double loss)>;

// A layer to train, and what it shall do. References must outlive training.
struct LayerProblem {
  const hf::Config& config;
  model::LayerWeights& weights;
  model::OnlineTransforms online = {};  // of the linears' inputs
  LayerScheme scheme;                   // of the linears that are trained
  ActBits untrained = {};               // of those that are not
  const model::Rope<float>& rope;       // of the longest sample
  // The layer shall map inputs to targets.
  const model::HiddenStates& inputs;
  const model::HiddenStates& targets;
  const TokenRoutes* routes = nullptr;  // of the samples, where the layer has experts
  uint32_t seed = 0;  // of the samples that are drawn, with layer_idx
  int64_t layer_idx = 0;
  // Unless empty, weights and best codes are kept in files here, which takes the weights out of
  // `weights` meanwhile.
  std::filesystem::path directory = {};
};

// Learns the rounding of the linears in the scheme.
// Iteration k draws kSamplesPerIteration samples, or all, without replacement from a stream seeded
// by (seed, layer_idx). Kept is the best of plain rounding, the published rule's choice and the
// final parameters, measured on up to kEvaluationSamples samples spread over the set. With
// options.until_flat the samples that are measured on, at most a quarter, are not drawn; there are
// 100 iterations and then, as long as the last round took 5 % off their loss, as many again as
// there were, options.iters in all at most; kept is the best of plain rounding and the end of each
// round. With both tunings off, or no linear in the scheme, it is plain rounding and nothing is
// run. Where no linear of attention is in the scheme, attention runs once and what it gives is kept
// as model::TokenRows in the directory. Same arguments, same bytes, on any number of threads, and
// whatever of options.max_whole_tokens and the directory. In a layer with experts tokens go where
// problem.routes says, and batches always come in pieces. Throws Error(kNumeric) when the loss is
// not finite; the weights are lost then.
LayerResult train_layer(const LayerProblem& problem, const TrainOptions& options,
                        const TrainProgress& progress = nullptr);

// The samples that train_layer looks at, in order: those it draws and those it evaluates on.
std::vector<int64_t> samples_seen(const TrainOptions& options, int64_t num_samples, uint32_t seed,
                                  int64_t layer_idx);

// Whether a linear of attention is in the scheme. If not, attention runs once a sample.
bool trains_attention(const LayerScheme& scheme);

// Tokens of the largest batch that train_layer can draw from `samples`.
int64_t largest_batch(const model::Ragged& samples);

}  // namespace laos::autoround
