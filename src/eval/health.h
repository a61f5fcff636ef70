// Whether a quantized checkpoint is sound: layer by layer and as a whole beside the float one that
// it was made from, in the integers that the accelerator will use.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "eval/metrics.h"
#include "model/outliers.h"

namespace laos::eval {

// A decoder layer.
struct LayerHealth {
  std::string labels =
      {};  // of its linears, where the model is quantized: layers to compare it with
  // Of the layer alone, on what the float layer reads: mean over tokens of the output's error
  // relative to what the float layer adds to the residual stream. NaN: not finite.
  double error = 0;
  // Of the hidden states behind it, with the errors of all layers before: mean over tokens of
  // ‖h' - h‖ / ‖h‖. NaN from the first layer on whose output is not finite.
  double drift = 0;
  // Of a mixture: share of the tokens that go to other experts than in the float model. NaN: none.
  double rerouted = std::numeric_limits<double>::quiet_NaN();
  // What the linear groups read, in the order of model::kAllLinearGroups: in the float model and
  // in the quantized one.
  std::array<model::Outliers, 4> before = {}, after = {};
};

// A prompt and what each model makes of it, choosing the likeliest token each time.
struct Continuation {
  std::string prompt, baseline, model;
};

enum class Verdict { kGood, kDegraded, kBroken };
const char* name_of(Verdict verdict) noexcept;  // "good", "degraded", "broken"

struct Health {
  int64_t num_tokens = 0;               // that ran through both models
  std::vector<std::string> not_finite;  // tensors that hold NaN or infinity
  // Relative distance of the model's embedding from the baseline's in the model's basis; rounding
  // to bf16 gives 0.002.
  double embedding_error = 0;
  std::vector<LayerHealth> layers;
  // From the baseline, at the positions that have a next token; NaN when logits are not finite.
  double kl_mean = 0, kl_stderr = 0, kl_max = 0, top1_agreement = 0;
  double perplexity = 0, baseline_perplexity = 0;
  std::vector<Continuation> continuations;
};

// The bounds of judge. docs/report.md has the measurements they come from.
inline constexpr double kDegradedKl = 0.25, kBrokenKl = 1.0;
inline constexpr double kDegradedTop1 = 0.75;
inline constexpr double kDegradedLayer = 0.5, kBrokenLayer = 0.9;
// A layer stands out with so many times the median error of the layers of its labels, of which
// there must be kPeers at least, unless its error is small all the same.
inline constexpr double kStandsOut = 3, kStandsOutFrom = 0.05;
inline constexpr int64_t kPeers = 3;
inline constexpr double kBrokenEmbedding = 0.05;

struct Judgement {
  Verdict verdict = Verdict::kGood;
  std::vector<std::string> reasons;  // where it is not good; causes before what they lead to
  std::vector<int64_t> worst;        // all layers, the worst first
};
Judgement judge(const Health& health);

// Runs both models over `windows` a layer at a time: memory is that of one layer of each and a few
// rows a token. The model's residual stream may be rotated against the baseline's: by `rotation`
// [hidden_size, hidden_size], or, where that is null, by what is found from the two embeddings,
// which takes some 70 * hidden_size^3 operations. `directory`, the model's, is searched for values
// that are not finite. `progress` is called with the steps done, of health_steps. Leaves
// `continuations` empty. Throws Error: kShape when the two are not of one architecture, kData as
// perplexity does, kNumeric when the baseline's logits are not finite.
Health check_health(const std::filesystem::path& directory, const EvalModel& model,
                    const EvalModel& baseline, const Windows& windows,
                    const Mat<float>* rotation = nullptr,
                    const std::function<void(int64_t)>& progress = nullptr);
// One before the layers, and one behind them.
inline int64_t health_steps(const hf::Config& config) { return config.num_hidden_layers + 2; }

// The `count` tokens that the model finds likeliest after each prompt, one after the other, a layer
// in memory at a time. Each of `drafts` (may be shorter or empty) is a guess at a continuation:
// all its tokens run at once and those the model would have chosen are taken, so that a good guess
// saves passes and none changes the result. Behind a wrong guess, what the model said there is the
// next guess. After `max_passes` over the weights there is what was chosen until then, a token a
// pass or more; 0: as many passes as it takes. Throws Error as final_hidden.
std::vector<std::vector<int32_t>> greedy_continuations(
    const EvalModel& model, const std::vector<std::vector<int32_t>>& prompts, int64_t count,
    std::vector<std::vector<int32_t>> drafts, int64_t max_passes = 0);

}  // namespace laos::eval
