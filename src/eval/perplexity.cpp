#include "eval/perplexity.h"

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

// Scored positions: rows of hidden states whose next token is in the same window.
struct Scored {
  std::vector<int64_t> rows;
  std::vector<int32_t> targets;
};

Scored scored_positions(const Windows& windows) {
  Scored scored;
  int64_t row = 0;
  for (const std::vector<int32_t>& window : windows) {
    if (window.size() < 2)
      throw Error(ErrorCode::kData, {.what = "a window of fewer than 2 tokens has nothing to score",
                                     .where = "evaluation text",
                                     .fix = "use longer texts or windows"});
    for (size_t i = 0; i + 1 < window.size(); ++i) {
      scored.rows.push_back(row + static_cast<int64_t>(i));
      scored.targets.push_back(window[i + 1]);
    }
    row += std::ssize(window);
  }
  return scored;
}

void take_block(const float* logits, int64_t count, int64_t first_id, int32_t target,
                Running& running, double& shrink) {
  const float* best = std::max_element(logits, logits + count);
  shrink = running.raise_max(*best);
  for (int64_t j = 0; j < count; ++j)
    running.sum += std::exp(static_cast<double>(logits[j]) - running.max);
  if (*best > running.top_logit) {
    running.top_logit = *best;
    running.top = first_id + (best - logits);
  }
  if (target >= first_id && target < first_id + count)
    running.target_logit = logits[target - first_id];
}

Mat<float> gather(const model::HiddenStates& states, const Scored& scored) {
  Mat<float> rows(std::ssize(scored.rows), states.rows.cols());
  for (int64_t i = 0; i < rows.rows(); ++i)
    std::copy_n(states.rows.row(scored.rows[static_cast<size_t>(i)]), rows.cols(), rows.row(i));
  return rows;
}

Perplexity summarize(const std::vector<Running>& running) {
  Perplexity result;
  result.num_tokens = std::ssize(running);
  double sum = 0, squares = 0;
  for (const Running& r : running) {
    const double nll = r.log_sum() - r.target_logit;
    sum += nll;
    squares += nll * nll;
  }
  const auto n = static_cast<double>(result.num_tokens);
  result.nll = sum / n;
  result.nll_stderr = std::sqrt(std::max(0.0, squares / n - result.nll * result.nll) / n);
  result.value = std::exp(result.nll);
  if (!std::isfinite(result.value))
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

Pass run(const Mat<float>& hidden, const TensorView& lm_head, const Mat<float>* base_hidden,
         const TensorView* base_lm_head, const Scored& scored) {
  const int64_t n = hidden.rows(), vocab_size = lm_head.shape[0];
  Pass pass;
  pass.model.resize(static_cast<size_t>(n));
  if (base_hidden != nullptr) {
    pass.baseline.resize(static_cast<size_t>(n));
    pass.kl.resize(static_cast<size_t>(n), 0.0);
  }
  Mat<float> logits(std::min(kTokenBlock, n), kVocabBlock), base_logits;
  if (base_hidden != nullptr) base_logits = Mat<float>(logits.rows(), kVocabBlock);
  for (int64_t first_id = 0; first_id < vocab_size; first_id += kVocabBlock) {
    const int64_t count = std::min(kVocabBlock, vocab_size - first_id);
    const Mat<float> head = model::rows_to_f32(lm_head, first_id, first_id + count);
    Mat<float> base_head;
    if (base_hidden != nullptr)
      base_head = model::rows_to_f32(*base_lm_head, first_id, first_id + count);
    for (int64_t begin = 0; begin < n; begin += kTokenBlock) {
      const int64_t end = std::min(n, begin + kTokenBlock);
      const MatView<float> block = logits.view().slice_rows(0, end - begin).slice_cols(0, count);
      linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f,
                   hidden.view().slice_rows(begin, end), head.view(), 0.0f, block);
      MatView<float> base_block;
      if (base_hidden != nullptr) {
        base_block = base_logits.view().slice_rows(0, end - begin).slice_cols(0, count);
        linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f,
                     base_hidden->view().slice_rows(begin, end), std::as_const(base_head).view(),
                     0.0f, base_block);
      }
      parallel_for_ranges(end - begin, 8, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          const auto token = static_cast<size_t>(begin + i);
          double shrink = 1;
          take_block(block.row(i), count, first_id, scored.targets[token], pass.model[token],
                     shrink);
          if (base_hidden == nullptr) continue;
          Running& base = pass.baseline[token];
          take_block(base_block.row(i), count, first_id, scored.targets[token], base, shrink);
          // sum exp(b - max) (b - m) over logits b of the baseline and m of the model, rescaled
          // with base.max.
          double& kl = pass.kl[token];
          kl *= shrink;
          for (int64_t j = 0; j < count; ++j) {
            const double b = base_block.row(i)[j], m = block.row(i)[j];
            kl += std::exp(b - base.max) * (b - m);
          }
        }
      });
    }
  }
  for (size_t i = 0; i < pass.kl.size(); ++i) {
    const double kl =
        pass.kl[i] / pass.baseline[i].sum - pass.baseline[i].log_sum() + pass.model[i].log_sum();
    pass.kl[i] = std::max(0.0, kl);  // rounding can leave -1e-16
  }
  return pass;
}

}  // namespace

Perplexity perplexity(const EvalModel& model, const Windows& windows) {
  const Scored scored = scored_positions(windows);
  const Mat<float> hidden = gather(final_hidden(model, windows), scored);
  return summarize(run(hidden, model.lm_head(), nullptr, nullptr, scored).model);
}

Comparison compare(const EvalModel& model, const EvalModel& baseline, const Windows& windows) {
  if (model.config().vocab_size != baseline.config().vocab_size)
    throw Error(ErrorCode::kShape,
                {.what = "vocabularies of " + std::to_string(model.config().vocab_size) + " and " +
                         std::to_string(baseline.config().vocab_size) + " tokens",
                 .where = "model and baseline",
                 .fix = "compare checkpoints of the same model"});
  const Scored scored = scored_positions(windows);
  const Mat<float> hidden = gather(final_hidden(model, windows), scored);
  const Mat<float> base_hidden = gather(final_hidden(baseline, windows), scored);
  const TensorView base_lm_head = baseline.lm_head();
  Pass pass = run(hidden, model.lm_head(), &base_hidden, &base_lm_head, scored);

  Comparison result{summarize(pass.model), summarize(pass.baseline), {}};
  Divergence& d = result.divergence;
  const auto n = static_cast<double>(pass.kl.size());
  double squares = 0;
  int64_t agreed = 0;
  for (size_t i = 0; i < pass.kl.size(); ++i) {
    d.kl_mean += pass.kl[i] / n;
    squares += pass.kl[i] * pass.kl[i] / n;
    agreed += pass.model[i].top == pass.baseline[i].top ? 1 : 0;
  }
  d.kl_stderr = std::sqrt(std::max(0.0, squares - d.kl_mean * d.kl_mean) / n);
  d.top1_agreement = static_cast<double>(agreed) / n;
  std::sort(pass.kl.begin(), pass.kl.end());
  d.kl_median = pass.kl[pass.kl.size() / 2];
  d.kl_p99 = pass.kl[static_cast<size_t>(0.99 * (n - 1))];
  d.kl_max = pass.kl.back();
  return result;
}

}  // namespace laos::eval
