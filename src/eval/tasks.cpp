#include "eval/tasks.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "core/collapse.h"
#include "core/error.h"
#include "core/utf8.h"
#include "eval/generate.h"

namespace laos::eval {
namespace {

// Tokens whose hidden states exist at a time: enough that reading a layer's weights is cheap beside
// computing with them.
constexpr int64_t kTaskTokens = 16384;

std::string stripped(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(kSpace) + 1 - first));
}

TaskAnswer answer_of(const hf::TaskItem& item, std::span<const Likelihood> likelihoods) {
  TaskAnswer answer;
  answer.logprob = likelihoods[item.right].logprob;
  if (item.kind == hf::TaskKind::kCloze) {
    answer.right = likelihoods.front().greedy;
    return answer;
  }
  const auto normalised = [&](size_t i) {
    return likelihoods[i].logprob / static_cast<double>(num_characters(item.answers[i]));
  };
  for (size_t i = 1; i < likelihoods.size(); ++i) {
    if (likelihoods[i].logprob > likelihoods[answer.choice].logprob) answer.choice = i;
    if (normalised(i) > normalised(answer.choice_normalised)) answer.choice_normalised = i;
  }
  answer.right = answer.choice == item.right;
  answer.right_normalised = answer.choice_normalised == item.right;
  return answer;
}

// Items [begin, end) whose windows run together.
struct ItemRange {
  size_t begin, end;
};
std::vector<ItemRange> ranges_of(const std::vector<EncodedItem>& items) {
  std::vector<ItemRange> ranges;
  int64_t tokens = kTaskTokens;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].windows.empty()) continue;
    if (tokens >= kTaskTokens) {
      ranges.push_back({i, i});
      tokens = 0;
    }
    for (const Window& window : items[i].windows) tokens += std::ssize(window.ids);
    ranges.back().end = i + 1;
  }
  return ranges;
}

Windows windows_of(const std::vector<EncodedItem>& items, ItemRange range) {
  Windows windows;
  for (size_t i = range.begin; i < range.end; ++i)
    windows.insert(windows.end(), items[i].windows.begin(), items[i].windows.end());
  return windows;
}

// Into the answers of the items, whose scores lie one after the other.
void take_scores(const std::vector<hf::TaskItem>& items, const std::vector<EncodedItem>& encoded,
                 ItemRange range, const std::vector<double>& nll, const std::vector<double>& hits,
                 const std::vector<double>& kl, TaskAnswers& answers) {
  const std::vector<Likelihood> all = likelihoods(nll, hits, windows_of(encoded, range));
  size_t window = 0, token = 0;
  for (size_t i = range.begin; i < range.end; ++i) {
    const Windows& windows = encoded[i].windows;
    if (windows.empty()) continue;
    answers[i] = answer_of(items[i], std::span(all).subspan(window, windows.size()));
    window += windows.size();
    for (size_t w = 0; w < windows.size(); ++w) {
      const auto count = static_cast<size_t>(windows[w].num_scored());
      if (w == items[i].right && !kl.empty())
        answers[i].kl.assign(kl.begin() + static_cast<std::ptrdiff_t>(token),
                             kl.begin() + static_cast<std::ptrdiff_t>(token + count));
      token += count;
    }
  }
}

// Tokens with a line's end in them.
std::vector<int32_t> line_ends(const hf::Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    if (tokenizer.bytes_of(id).has_value() &&
        tokenizer.decode(std::vector<int32_t>{id}).find('\n') != std::string::npos)
      ids.push_back(id);
  return ids;
}

void generate_answers(const EvalModel& model, const std::vector<hf::TaskItem>& items,
                      const std::vector<EncodedItem>& encoded, const hf::Tokenizer& tokenizer,
                      const GenerateOptions& options, const std::function<void()>& step,
                      TaskAnswers& answers) {
  const Generator generator(model);
  std::vector<size_t> indices;
  for (size_t i = 0; i < items.size(); ++i)
    if (items[i].kind == hf::TaskKind::kGenerate) indices.push_back(i);
  for (size_t begin = 0; begin < indices.size(); begin += static_cast<size_t>(options.batch)) {
    const size_t end = std::min(indices.size(), begin + static_cast<size_t>(options.batch));
    std::vector<std::vector<int32_t>> prompts;
    for (size_t i = begin; i < end; ++i) prompts.push_back(encoded[indices[i]].prompt);
    const std::vector<Generated> generated = generator.run(prompts, options);
    for (size_t i = begin; i < end; ++i) {
      const std::string text = tokenizer.decode(generated[i - begin].ids);
      TaskAnswer& answer = answers[indices[i]];
      answer.text = stripped(std::string_view(text).substr(0, text.find('\n')));
      answer.right = answer.text == stripped(items[indices[i]].answers.front());
      step();
    }
  }
}

}  // namespace

std::vector<EncodedItem> encode_items(const std::vector<hf::TaskItem>& items,
                                      const PairEncoder& encoder, int64_t positions) {
  std::vector<EncodedItem> encoded;
  CollapsedProblems problems(1);
  for (const hf::TaskItem& item : items) {
    EncodedItem result;
    int64_t runs = 0;
    if (item.kind == hf::TaskKind::kGenerate) {
      result.prompt = encoder.tokenizer().begin(encoder.tokenizer().encode(item.context));
      runs = std::ssize(result.prompt);
    } else {
      for (const std::string& answer : item.answers) {
        result.windows.push_back(encoder.encode(item.context, item.delimiter + answer));
        runs = std::max(runs, std::ssize(result.windows.back().ids) - 1);
      }
    }
    if (positions > 0 && runs > positions)
      problems.add({.what = "the item has more tokens than the model's " +
                            std::to_string(positions) + " positions",
                    .where = item.where,
                    .fix = "leave it out"});
    encoded.push_back(std::move(result));
  }
  if (problems.count() > 0) throw Error(ErrorCode::kData, problems.list());
  return encoded;
}

std::vector<TaskAnswers> run_tasks(
    const std::vector<const EvalModel*>& models, const EvalModel* baseline,
    const std::vector<hf::TaskItem>& items, const std::vector<EncodedItem>& encoded,
    const hf::Tokenizer& tokenizer, const TaskOptions& options,
    const std::function<void(int64_t done, int64_t total)>& progress) {
  std::vector<const EvalModel*> all = models;
  if (baseline != nullptr) all.push_back(baseline);
  std::vector<TaskAnswers> answers(all.size(), TaskAnswers(items.size()));
  const std::vector<ItemRange> ranges = ranges_of(encoded);
  const auto num_generated =
      std::count_if(items.begin(), items.end(),
                    [](const hf::TaskItem& item) { return item.kind == hf::TaskKind::kGenerate; });
  int64_t done = 0, total = 0;
  for (const EvalModel* model : all)
    total += std::ssize(ranges) * model->config().num_hidden_layers + num_generated;
  const auto step = [&] {
    ++done;
    if (progress) progress(done, total);
  };
  const auto layer_done = [&](int64_t) { step(); };

  for (const ItemRange& range : ranges) {
    const Windows windows = windows_of(encoded, range);
    ScoredHidden base;
    if (baseline != nullptr) base = target_hidden(*baseline, windows, layer_done);
    for (size_t m = 0; m < models.size(); ++m) {
      const TokenScores scores = score_tokens(target_hidden(*models[m], windows, layer_done),
                                              baseline != nullptr ? &base : nullptr, windows);
      take_scores(items, encoded, range, scores.nll, scores.hits, scores.kl, answers[m]);
      if (baseline != nullptr && m == 0)
        take_scores(items, encoded, range, scores.baseline_nll, scores.baseline_hits, {},
                    answers.back());
    }
  }
  if (num_generated == 0) return answers;
  const GenerateOptions generating = {.max_new_tokens = options.max_new_tokens,
                                      .stop_ids = options.stop_ids,
                                      .last_ids = line_ends(tokenizer)};
  for (size_t m = 0; m < all.size(); ++m)
    generate_answers(*all[m], items, encoded, tokenizer, generating, step, answers[m]);
  return answers;
}

namespace {

bool is_same_answer(const hf::TaskItem& item, const TaskAnswer& a, const TaskAnswer& b) {
  switch (item.kind) {
    case hf::TaskKind::kChoice:
      return a.choice == b.choice;
    case hf::TaskKind::kGenerate:
      return a.text == b.text;
    case hf::TaskKind::kCloze:
      break;
  }
  return a.right == b.right;
}

Mean mean_of_items(const std::vector<double>& values) {
  if (values.empty()) return {};
  return mean_over_windows(values, std::vector<int64_t>(values.size(), 1));
}

TaskSummary summary_of(const std::string& task, const std::vector<size_t>& indices,
                       const std::vector<hf::TaskItem>& items, const TaskAnswers& answers,
                       const TaskAnswers* baseline) {
  TaskSummary summary{.task = task, .num_items = std::ssize(indices)};
  std::vector<double> right, normalised, change, kl;
  std::vector<int64_t> kl_sizes;
  for (const size_t i : indices) {
    const TaskAnswer& answer = answers[i];
    right.push_back(answer.right ? 1 : 0);
    if (items[i].kind == hf::TaskKind::kChoice)
      normalised.push_back(answer.right_normalised ? 1 : 0);
    if (baseline == nullptr) continue;
    const TaskAnswer& before = (*baseline)[i];
    summary.lost += before.right && !answer.right ? 1 : 0;
    summary.gained += !before.right && answer.right ? 1 : 0;
    summary.changed += is_same_answer(items[i], before, answer) ? 0 : 1;
    if (items[i].kind == hf::TaskKind::kGenerate) continue;
    change.push_back(answer.logprob - before.logprob);
    kl.insert(kl.end(), answer.kl.begin(), answer.kl.end());
    kl_sizes.push_back(std::ssize(answer.kl));
  }
  summary.num_choice = std::ssize(normalised);
  summary.num_likelihoods = std::ssize(change);
  summary.accuracy = mean_of_items(right);
  summary.accuracy_normalised = mean_of_items(normalised);
  summary.logprob_change = mean_of_items(change);
  if (!kl.empty()) summary.kl = mean_over_windows(kl, kl_sizes);
  return summary;
}

}  // namespace

std::vector<TaskSummary> summarize_tasks(const std::vector<hf::TaskItem>& items,
                                         const TaskAnswers& answers, const TaskAnswers* baseline) {
  std::vector<std::pair<std::string, std::vector<size_t>>> groups;
  std::vector<size_t> all;
  for (size_t i = 0; i < items.size(); ++i) {
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const auto& g) { return g.first == items[i].task; });
    if (group == groups.end()) group = groups.insert(groups.end(), {items[i].task, {}});
    group->second.push_back(i);
    all.push_back(i);
  }
  std::vector<TaskSummary> summaries;
  if (groups.size() > 1)
    for (const auto& [task, indices] : groups)
      summaries.push_back(summary_of(task, indices, items, answers, baseline));
  summaries.push_back(summary_of("all", all, items, answers, baseline));
  return summaries;
}

}  // namespace laos::eval
