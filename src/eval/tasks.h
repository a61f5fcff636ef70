// What a checkpoint can do, by questions with known answers, alone and beside another.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "eval/likelihood.h"
#include "hf/task_items.h"

namespace laos::eval {

// An item as a model reads it: a window for each answer, or the prompt.
struct EncodedItem {
  Windows windows;
  std::vector<int32_t> prompt;
  bool operator==(const EncodedItem&) const = default;
};
// Throws Error(kData) naming all items that are longer than `positions` (0: any length).
std::vector<EncodedItem> encode_items(const std::vector<hf::TaskItem>& items,
                                      const PairEncoder& encoder, int64_t positions);

// What a model answered to one item.
struct TaskAnswer {
  bool right = false;
  bool right_normalised = false;  // these of choices alone:
  size_t choice = 0;              // the likeliest, of equals the first
  size_t choice_normalised = 0;   // the likeliest per character of its text
  std::string text;               // what was generated
  double logprob = 0;             // of the right answer, unless it is generated
  std::vector<double> kl;         // KL(baseline || model) at its tokens
};
using TaskAnswers = std::vector<TaskAnswer>;

struct TaskOptions {
  int64_t max_new_tokens = 32;         // of kGenerate
  std::vector<int32_t> stop_ids = {};  // end a text
};

// Runs the models and, not null, the baseline, which see the same tokens, over all items; the
// answers of each model in turn, then of the baseline. What is generated ends at a stop token, the
// first line's end or max_new_tokens, and white space around it does not count. Throws Error as
// score_tokens and Generator do. `progress` gets steps done and all there are.
std::vector<TaskAnswers> run_tasks(
    const std::vector<const EvalModel*>& models, const EvalModel* baseline,
    const std::vector<hf::TaskItem>& items, const std::vector<EncodedItem>& encoded,
    const hf::Tokenizer& tokenizer, const TaskOptions& options,
    const std::function<void(int64_t done, int64_t total)>& progress = nullptr);

// A group of items. Means are over items, each of equal weight, with the standard error
// sqrt(sum (x - mean)² / (n (n - 1))).
struct TaskSummary {
  std::string task = {};
  int64_t num_items = 0, num_choice = 0;
  Mean accuracy = {};
  Mean accuracy_normalised = {};  // of the num_choice items that are choices, if any
  // Beside the baseline: answers that were right there and are wrong now, the other way round, and
  // all that are another answer. A cloze has only right and wrong.
  int64_t lost = 0, gained = 0, changed = 0;
  int64_t num_likelihoods = 0;  // items behind the next two, those that are not generated
  Mean logprob_change = {};     // log-probability of the right answer less the baseline's
  Mean kl = {};  // per token of the right answer; items are the clusters of its error
};
// By task in the order of their first items, unless there is but one, and of all items, named
// `all`, last. `baseline` may be null.
std::vector<TaskSummary> summarize_tasks(const std::vector<hf::TaskItem>& items,
                                         const TaskAnswers& answers, const TaskAnswers* baseline);

}  // namespace laos::eval
