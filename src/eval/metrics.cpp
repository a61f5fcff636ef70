#include "eval/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "model/checkpoint.h"

namespace laos::eval {
namespace {

constexpr int64_t kVocabBlock = 4096;  // rows of lm_head in f32 at a time
constexpr int64_t kTokenBlock = 1024;  // tokens whose logits exist at a time

// What a pass over the vocabulary, a block at a time, leaves of one model's logits at one position.
struct Running {
  double max = -std::numeric_limits<double>::infinity();
  double sum = 0;  // of exp(logit - max)
  double target_logit = 0;
  int64_t top = 0;
  float top_logit = -std::numeric_limits<float>::infinity();

  double log_sum() const { return max + std::log(sum); }
  // Returns exp(old max - new max), by which sums weighted with this model's probabilities shrink.
  double raise_max(double block_max) {
    if (block_max <= max) return 1;
    const double shrink = std::exp(max - block_max);
    sum *= shrink;
    max = block_max;
    return shrink;
  }
};

std::vector<int32_t> targets_of(const Windows& windows) {
  std::vector<int32_t> targets;
  for (const Window& window : windows)
    targets.insert(targets.end(), window.ids.begin() + window.num_context, window.ids.end());
  return targets;
}

model::Ragged lengths_of(const Windows& windows) {
  model::Ragged lengths;
  for (const Window& window : windows) lengths.append(std::ssize(window.ids));
  return lengths;
}

std::vector<int64_t> sizes_of(const Windows& windows) {
  std::vector<int64_t> sizes;
  for (const Window& window : windows) sizes.push_back(window.num_scored());
  return sizes;
}

// Returns what raise_max does.
double take_block(const float* logits, int64_t count, int64_t first_id, int32_t target,
                  Running& running) {
  const float* best = std::max_element(logits, logits + count);
  const double shrink = running.raise_max(*best);
  for (int64_t j = 0; j < count; ++j)
    running.sum += std::exp(static_cast<double>(logits[j]) - running.max);
  if (*best > running.top_logit) {
    running.top_logit = *best;
    running.top = first_id + (best - logits);
  }
  if (target >= first_id && target < first_id + count)
    running.target_logit = logits[target - first_id];
  return shrink;
}

std::vector<double> nll_of(const std::vector<Running>& running) {
  std::vector<double> nll;
  nll.reserve(running.size());
  for (const Running& r : running) nll.push_back(r.log_sum() - r.target_logit);
  return nll;
}

std::vector<double> hits_of(const std::vector<Running>& running, const Windows& windows) {
  const std::vector<int32_t> targets = targets_of(windows);
  std::vector<double> hits;
  for (size_t i = 0; i < running.size(); ++i) hits.push_back(running[i].top == targets[i] ? 1 : 0);
  return hits;
}

Score summarize(const std::vector<double>& nll, std::span<const int64_t> window_sizes) {
  Score result;
  result.num_tokens = std::ssize(nll);
  result.num_windows = std::ssize(window_sizes);
  result.nll = mean_over_windows(nll, window_sizes);
  result.perplexity.value = std::exp(result.nll.value);
  result.perplexity.std_error = result.perplexity.value * result.nll.std_error;
  if (!std::isfinite(result.perplexity.value))
    throw Error(ErrorCode::kNumeric, {.what = "the model's logits are not finite",
                                      .where = "evaluation",
                                      .fix = "check the checkpoint with `laos inspect`"});
  return result;
}

// One pass over the vocabulary for one model, or for two beside each other: then `kl` is
// KL(baseline || model).
struct Pass {
  std::vector<Running> model, baseline;
  std::vector<double> kl;
};

// Scored tokens whose logits exist at a time, [begin, end): within a piece that ran through the
// model at once, as many as there may be. Sums of a product may be ordered by its number of rows,
// which must not depend on what other pieces there are.
std::vector<std::pair<int64_t, int64_t>> token_blocks(const Windows& windows) {
  std::vector<std::pair<int64_t, int64_t>> blocks;
  int64_t row = 0;
  for (const model::SampleRange& piece : model::whole_pieces(lengths_of(windows), kEvalTokens)) {
    int64_t end = row;
    for (int64_t w = piece.first; w < piece.last; ++w)
      end += windows[static_cast<size_t>(w)].num_scored();
    for (; row < end; row = blocks.back().second)
      blocks.emplace_back(row, std::min(end, row + kTokenBlock));
  }
  return blocks;
}

// `models` share the work on the baseline; one entry a model, the baseline's part in the first.
std::vector<Pass> run(std::span<const ScoredHidden> models, const ScoredHidden* baseline,
                      const Windows& windows) {
  const std::vector<int32_t> targets = targets_of(windows);
  const auto n = static_cast<size_t>(models.front().rows.rows());
  const int64_t vocab_size = models.front().lm_head.shape[0];
  LAOS_ASSERT(n == targets.size());
  std::vector<Pass> passes(models.size());
  for (size_t m = 0; m < models.size(); ++m) {
    LAOS_ASSERT(models[m].rows.rows() == std::ssize(targets) &&
                models[m].lm_head.data == models.front().lm_head.data);
    passes[m].model.resize(n);
    if (baseline != nullptr) passes[m].kl.resize(n, 0.0);
  }
  std::vector<Running>& base = passes.front().baseline;
  if (baseline != nullptr) {
    LAOS_ASSERT(baseline->rows.rows() == std::ssize(targets));
    base.resize(n);
  }
  const std::vector<std::pair<int64_t, int64_t>> blocks = token_blocks(windows);
  Mat<float> logits(std::min(kTokenBlock, std::ssize(targets)), kVocabBlock), base_logits;
  if (baseline != nullptr) base_logits = Mat<float>(logits.rows(), kVocabBlock);
  const int64_t widest = std::min(kVocabBlock, vocab_size);
  Mat<float> head_rows(widest, models.front().lm_head.shape[1]);
  Mat<float> base_head_rows(baseline != nullptr ? widest : 0, head_rows.cols());
  for (int64_t first_id = 0; first_id < vocab_size; first_id += kVocabBlock) {
    const int64_t count = std::min(kVocabBlock, vocab_size - first_id);
    model::rows_to_f32(models.front().lm_head, first_id, first_id + count, head_rows.data());
    const MatView<const float> head = head_rows.view().slice_rows(0, count);
    MatView<const float> base_head;
    if (baseline != nullptr) {
      model::rows_to_f32(baseline->lm_head, first_id, first_id + count, base_head_rows.data());
      base_head = base_head_rows.view().slice_rows(0, count);
    }
    for (const auto& [begin_row, end_row] : blocks) {
      const int64_t begin = begin_row, end = end_row;  // for lambdas
      const auto multiply = [&](const ScoredHidden& from, MatView<const float> weights,
                                MatView<float> block) {
        linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f,
                     from.rows.view().slice_rows(begin, end), weights, 0.0f, block);
        round_rows(block, from.logits);
      };
      const MatView<float> block = logits.view().slice_rows(0, end - begin).slice_cols(0, count);
      MatView<float> base_block;
      std::vector<double> shrink(static_cast<size_t>(end - begin), 1.0);  // of the baseline
      if (baseline != nullptr) {
        base_block = base_logits.view().slice_rows(0, end - begin).slice_cols(0, count);
        multiply(*baseline, base_head, base_block);
        parallel_for_ranges(end - begin, 8, [&](int64_t first, int64_t last) {
          for (int64_t i = first; i < last; ++i) {
            const auto token = static_cast<size_t>(begin + i);
            shrink[static_cast<size_t>(i)] =
                take_block(base_block.row(i), count, first_id, targets[token], base[token]);
          }
        });
      }
      for (size_t m = 0; m < models.size(); ++m) {
        multiply(models[m], head, block);
        parallel_for_ranges(end - begin, 8, [&](int64_t first, int64_t last) {
          for (int64_t i = first; i < last; ++i) {
            const auto token = static_cast<size_t>(begin + i);
            (void)take_block(block.row(i), count, first_id, targets[token], passes[m].model[token]);
            if (baseline == nullptr) continue;
            // sum exp(b - max) (b - m) over logits b of the baseline and m of the model, rescaled
            // with base.max.
            double& kl = passes[m].kl[token];
            kl *= shrink[static_cast<size_t>(i)];
            for (int64_t j = 0; j < count; ++j) {
              const double b = base_block.row(i)[j], logit = block.row(i)[j];
              kl += std::exp(b - base[token].max) * (b - logit);
            }
          }
        });
      }
    }
  }
  for (Pass& pass : passes)
    for (size_t i = 0; i < pass.kl.size(); ++i) {
      const double kl = pass.kl[i] / base[i].sum - base[i].log_sum() + pass.model[i].log_sum();
      pass.kl[i] = std::max(0.0, kl);  // rounding can leave -1e-16
    }
  return passes;
}

}  // namespace

Mean mean_over_windows(std::span<const double> values, std::span<const int64_t> window_sizes) {
  const auto n = static_cast<double>(values.size()), w = static_cast<double>(window_sizes.size());
  Mean mean;
  for (const double value : values) mean.value += value;
  mean.value /= n;
  double squares = 0;
  const double* value = values.data();
  for (const int64_t size : window_sizes) {
    double residual = 0;
    for (int64_t i = 0; i < size; ++i) residual += *value++ - mean.value;
    squares += residual * residual;
  }
  LAOS_ASSERT(value == values.data() + values.size());
  mean.std_error = window_sizes.size() < 2 ? std::numeric_limits<double>::quiet_NaN()
                                           : std::sqrt(w / (w - 1) * squares) / n;
  return mean;
}

double percentile(std::span<const double> values, double p) noexcept {
  LAOS_ASSERT(!values.empty());
  const auto count = static_cast<int64_t>(std::ceil(p * static_cast<double>(values.size())));
  return values[static_cast<size_t>(std::clamp<int64_t>(count, 1, std::ssize(values)) - 1)];
}

ScoredHidden scored_hidden(const EvalModel& model, const Windows& windows,
                           const LayersDone& progress) {
  for (const Window& window : windows)
    if (window.num_context < 1 || window.num_scored() < 1)
      throw Error(ErrorCode::kData, {.what = "a window of " + std::to_string(window.ids.size()) +
                                             " tokens has nothing to score",
                                     .where = "evaluation text",
                                     .fix = "use longer texts or windows"});
  if (windows.empty())
    throw Error(ErrorCode::kData,
                {.what = "there is nothing to score", .where = "evaluation text", .fix = ""});
  return scored_hidden(model, final_hidden(model, ids_of(windows), progress), windows);
}

ScoredHidden scored_hidden(const EvalModel& model, const model::HiddenStates& final_states,
                           const Windows& windows) {
  ScoredHidden result{Mat<float>(num_scored(windows), final_states.rows.cols()), model.lm_head(),
                      dtype_of(model.emulation())};
  int64_t row = 0;
  for (size_t w = 0; w < windows.size(); ++w) {
    const MatView<const float> hidden = final_states.of_sample(static_cast<int64_t>(w));
    for (int64_t i = windows[w].num_context - 1; i + 1 < std::ssize(windows[w].ids); ++i)
      std::copy_n(hidden.row(i), hidden.cols, result.rows.row(row++));
  }
  return result;
}

void TokenScores::append(TokenScores later) {
  const auto to = fields(), from = later.fields();
  for (size_t i = 0; i < to.size(); ++i)
    to[i]->insert(to[i]->end(), from[i]->begin(), from[i]->end());
}

std::vector<model::SampleRange> share_windows(const Windows& windows, int count) {
  const model::Ragged lengths = lengths_of(windows);
  const std::vector<model::SampleRange> pieces = model::whole_pieces(lengths, kEvalTokens);
  std::vector<model::SampleRange> shares;
  size_t piece = 0;
  for (int i = 0; i < count; ++i) {
    const int64_t first = shares.empty() ? 0 : shares.back().last;
    // Pieces are of about one size.
    const size_t end = pieces.size() * static_cast<size_t>(i + 1) / static_cast<size_t>(count);
    int64_t last = first;
    for (; piece < end; ++piece) last = pieces[piece].last;
    shares.push_back({first, last});
  }
  return shares;
}

TokenScores score_tokens(const ScoredHidden& model, const ScoredHidden* baseline,
                         const Windows& windows) {
  if (baseline != nullptr && model.lm_head.shape[0] != baseline->lm_head.shape[0])
    throw Error(ErrorCode::kShape,
                {.what = "vocabularies of " + std::to_string(model.lm_head.shape[0]) + " and " +
                         std::to_string(baseline->lm_head.shape[0]) + " tokens",
                 .where = "model and baseline",
                 .fix = "compare checkpoints of the same model"});
  Pass pass = std::move(run({&model, 1}, baseline, windows).front());
  TokenScores scores;
  scores.nll = nll_of(pass.model);
  scores.baseline_nll = nll_of(pass.baseline);
  scores.hits = hits_of(pass.model, windows);
  if (baseline != nullptr) scores.baseline_hits = hits_of(pass.baseline, windows);
  scores.kl = std::move(pass.kl);
  for (size_t i = 0; i < pass.baseline.size(); ++i)
    scores.agrees.push_back(pass.model[i].top == pass.baseline[i].top ? 1 : 0);
  return scores;
}

Comparison summarize(TokenScores scores, const Windows& windows) {
  const std::vector<int64_t> sizes = sizes_of(windows);
  Comparison result;
  result.model = summarize(scores.nll, sizes);
  if (scores.baseline_nll.empty()) return result;
  result.baseline = summarize(scores.baseline_nll, sizes);
  std::vector<double> increase;
  for (size_t i = 0; i < scores.nll.size(); ++i)
    increase.push_back(scores.nll[i] - scores.baseline_nll[i]);
  Divergence& d = result.divergence;
  d.kl = mean_over_windows(scores.kl, sizes);
  d.top1_agreement = mean_over_windows(scores.agrees, sizes);
  d.nll_increase = mean_over_windows(increase, sizes);
  std::sort(scores.kl.begin(), scores.kl.end());
  d.kl_median = percentile(scores.kl, 0.5);
  d.kl_p99 = percentile(scores.kl, 0.99);
  d.kl_max = scores.kl.back();
  return result;
}

std::vector<double> mean_kl(std::span<const ScoredHidden> models, const ScoredHidden& baseline,
                            const Windows& windows) {
  std::vector<double> means;
  for (const Pass& pass : run(models, &baseline, windows)) {
    double sum = 0;
    for (const double kl : pass.kl) sum += kl;
    means.push_back(sum / static_cast<double>(pass.kl.size()));
  }
  return means;
}

Score score(const ScoredHidden& model, const Windows& windows) {
  return summarize(score_tokens(model, nullptr, windows), windows).model;
}

Comparison compare(const ScoredHidden& model, const ScoredHidden& baseline,
                   const Windows& windows) {
  return summarize(score_tokens(model, &baseline, windows), windows);
}

Score score(const EvalModel& model, const Windows& windows) {
  return score(scored_hidden(model, windows), windows);
}

Comparison compare(const EvalModel& model, const EvalModel& baseline, const Windows& windows) {
  const ScoredHidden hidden = scored_hidden(model, windows);
  return compare(hidden, scored_hidden(baseline, windows), windows);
}

}  // namespace laos::eval
