// How well a checkpoint predicts text, alone and beside another.
#pragma once

#include <cstdint>
#include <vector>

#include "eval/eval_model.h"

namespace laos::eval {

using Windows = std::vector<std::vector<int32_t>>;

// Each window scores its tokens from the second on, given those before it in the window.
struct Perplexity {
  double value = 0;  // exp(mean negative log-likelihood)
  double nll = 0;    // mean, nats per token
  double nll_stderr =
      0;  // standard error of the mean over tokens, which counts tokens as independent
  int64_t num_tokens = 0;  // scored
};

// Divergence of the next-token distributions from a baseline's at the scored positions, nats per
// token.
struct Divergence {
  double kl_mean = 0;  // KL(baseline || model)
  double kl_median = 0;
  double kl_p99 = 0;
  double kl_max = 0;
  double kl_stderr = 0;
  double top1_agreement = 0;  // share of positions where both rank the same token first
};

// Throws Error as open_eval_model's layers do, kData on a window shorter than 2 tokens or foreign
// token ids, kNumeric when logits are not finite.
Perplexity perplexity(const EvalModel& model, const Windows& windows);

struct Comparison {
  Perplexity model;
  Perplexity baseline;
  Divergence divergence;
};
// Both models see the same windows. Throws Error(kShape) when their vocabularies differ.
Comparison compare(const EvalModel& model, const EvalModel& baseline, const Windows& windows);

}  // namespace laos::eval
