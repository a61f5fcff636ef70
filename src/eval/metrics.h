// How well a checkpoint predicts text, alone and beside another.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "eval/eval_model.h"
#include "eval/windows.h"

namespace laos::eval {

// A mean over the scored tokens, each of equal weight.
struct Mean {
  double value = 0;
  // Its standard error. Tokens of one window are correlated, so windows are the clusters: with
  // s_w the sum and n_w the number of a window's tokens, N all tokens and W windows,
  // sqrt(W / (W - 1) * sum_w (s_w - value * n_w)²) / N. NaN for fewer than two windows.
  double std_error = 0;
};
// `values` of the scored tokens in order, `window_sizes` of them in each window.
Mean mean_over_windows(std::span<const double> values, std::span<const int64_t> window_sizes);

// The smallest of `values` (ascending, not empty) that at least the share `p` of them do not
// exceed.
double percentile(std::span<const double> values, double p) noexcept;

// How well one checkpoint predicts the scored tokens.
struct Score {
  int64_t num_tokens = 0;  // scored
  int64_t num_windows = 0;
  Mean nll;         // negative log-likelihood, nats per token
  Mean perplexity;  // exp(nll.value); its error is nll's times the perplexity (delta method)
};

// How far a checkpoint is from a baseline at the scored tokens.
struct Divergence {
  Mean kl;  // of the next-token distributions, KL(baseline || model), nats per token
  double kl_median = 0;
  double kl_p99 = 0;
  double kl_max = 0;
  Mean top1_agreement;  // share of tokens where both hold the same next token most likely
  Mean nll_increase;    // nll less the baseline's: the log of the ratio of perplexities. Its error
                        // is that of the paired difference, far smaller than either nll's
};

struct Comparison {
  Score model;
  Score baseline;
  Divergence divergence;
};

// What lm_head reads wherever a next token is scored, from which the logits are one product away.
struct ScoredHidden {
  Mat<float> rows;             // [num_scored, hidden_size]
  TensorView lm_head;          // of the model, which must outlive this
  DType logits = DType::kF32;  // what logits are rounded to
};
// Runs the model over all windows, layer by layer. Throws Error(kData) on no window, on one that
// scores nothing and on token ids outside the vocabulary; and as EvalModel::load_layer.
ScoredHidden scored_hidden(const EvalModel& model, const Windows& windows,
                           const LayersDone& progress = nullptr);
// The same from what final_hidden gives for the ids of `windows`, each window's last or not.
ScoredHidden scored_hidden(const EvalModel& model, const model::HiddenStates& final_states,
                           const Windows& windows);

// What a pass over the vocabulary says of each scored token, in order; every figure is made of
// these. Those beside a baseline are empty without one.
struct TokenScores {
  std::vector<double> nll, hits;  // hits: 1 where the token is the likeliest
  std::vector<double> baseline_nll, baseline_hits, kl,
      agrees;  // agrees: 1 where both hold the same token likeliest

  // All of them, in one order.
  std::array<std::vector<double>*, 6> fields() {
    return {&nll, &hits, &baseline_nll, &baseline_hits, &kl, &agrees};
  }

  // Of windows behind those of this.
  void append(TokenScores later);
};
// `windows` are those of the hidden states. Throws Error(kShape) when the vocabularies differ.
TokenScores score_tokens(const ScoredHidden& model, const ScoredHidden* baseline,
                         const Windows& windows);
// Throws Error(kNumeric) as below.
Comparison summarize(TokenScores scores, const Windows& windows);

// Ranges of windows, `count` of them one after the other: each of whole pieces that run through the
// model at once, so that the scores of the ranges put together are those of all windows, bit for
// bit. Some may be empty.
std::vector<model::SampleRange> share_windows(const Windows& windows, int count);

// Both throw Error(kNumeric) when logits are not finite. `windows` are those of the hidden states.
Score score(const ScoredHidden& model, const Windows& windows);
// Throws Error(kShape) when the vocabularies differ. A model compared with itself diverges by
// exactly 0.
Comparison compare(const ScoredHidden& model, const ScoredHidden& baseline, const Windows& windows);

// Divergence::kl of each of `models`, which have one head, from the baseline; the work on the
// baseline is done once. `models` not empty.
std::vector<double> mean_kl(std::span<const ScoredHidden> models, const ScoredHidden& baseline,
                            const Windows& windows);

// The same from the models.
Score score(const EvalModel& model, const Windows& windows);
Comparison compare(const EvalModel& model, const EvalModel& baseline, const Windows& windows);

}  // namespace laos::eval
