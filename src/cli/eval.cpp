#include "cli/eval.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/bos_flags.h"
#include "cli/dataset_flags.h"
#include "cli/emulate.h"
#include "cli/eval_tasks.h"
#include "cli/flags.h"
#include "cli/job.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "core/threads.h"
#include "eval/metrics.h"
#include "hf/dataset.h"
#include "pipeline/agree.h"
#include "pipeline/hidden_cache.h"

namespace laos::cli {
namespace {

using Json = nlohmann::ordered_json;

struct EvalFlags {
  BosFlags bos;
  std::vector<std::string> model_paths;
  std::string text, baseline, emulate, chat_format;
  eval::WindowOptions windows;
  TaskFlags tasks;
  std::string cache_dir;
  bool no_cache = false;
  int threads = 0;
  bool json = false;
  ProgressStyle progress;
};

// What was measured of one checkpoint; `divergence` counts only with a baseline.
struct Result {
  std::string path;
  eval::Score score;
  eval::Divergence divergence;
};

void check_flags(const EvalFlags& flags) {
  Problems problems;
  if (flags.text.empty() == flags.tasks.tasks.empty())
    problems.add({.what = "one of --text and --tasks is needed, not both",
                  .where = "command line",
                  .fix = "give one of them"});
  if (flags.windows.seq_len < 2)
    problems.add({.what = "--seq-len " + std::to_string(flags.windows.seq_len) + " scores no token",
                  .where = "command line",
                  .fix = "use 2 or more"});
  if (flags.windows.stride > flags.windows.seq_len)
    problems.add({.what = "--stride " + std::to_string(flags.windows.stride) +
                          " leaves out tokens between windows of " +
                          std::to_string(flags.windows.seq_len),
                  .where = "command line",
                  .fix = "use at most --seq-len"});
  problems.throw_if_any(ErrorCode::kUsage);
}

eval::Windows read_windows(const EvalFlags& flags, const hf::Config& config) {
  if (config.max_position_embeddings > 0 && flags.windows.seq_len > config.max_position_embeddings)
    throw Error(ErrorCode::kUsage,
                {.what = "--seq-len " + std::to_string(flags.windows.seq_len) +
                         " is more than the model's " +
                         std::to_string(config.max_position_embeddings) + " positions",
                 .where = "command line",
                 .fix = "use shorter windows"});
  const hf::Dataset texts =
      hf::load_dataset(flags.text, flags.model_paths.front(),
                       {.chat_format = flags.chat_format, .bos = flags.bos()});
  if (is_first_rank()) print_warnings(texts.warnings);
  eval::WindowOptions options = flags.windows;
  options.keep_short = !texts.is_running_text;
  eval::Windows windows = eval::cut_windows(texts.samples, options);
  if (windows.empty())
    throw Error(
        ErrorCode::kData,
        {.what = texts.is_running_text
                     ? "the text has " + std::to_string(texts.samples.front().size()) +
                           " tokens, less than one window of " + std::to_string(options.seq_len)
                     : "no text has more than one token, which is only read",
         .where = flags.text,
         .fix = "use more text or shorter windows"});
  return windows;
}

Json to_json(const eval::Score& s) {
  return {{"perplexity", s.perplexity.value},
          {"perplexity_stderr", s.perplexity.std_error},
          {"tokens", s.num_tokens},
          {"windows", s.num_windows},
          {"nll", s.nll.value},
          {"nll_stderr", s.nll.std_error}};
}

void add_to_json(const eval::Divergence& d, Json& json) {
  json["nll_increase"] = d.nll_increase.value;
  json["nll_increase_stderr"] = d.nll_increase.std_error;
  json["kl"] = {{"mean", d.kl.value},
                {"stderr", d.kl.std_error},
                {"median", d.kl_median},
                {"p99", d.kl_p99},
                {"max", d.kl_max}};
  json["top1_agreement"] = d.top1_agreement.value;
  json["top1_agreement_stderr"] = d.top1_agreement.std_error;
}

// One checkpoint: its figures, with those of the baseline under `baseline`. More: a list of them.
void print_json(const std::vector<Result>& results, const Result* baseline) {
  Json models = Json::array();
  for (const Result& result : results) {
    Json json = {{"model", result.path}};
    json.update(to_json(result.score));
    if (baseline != nullptr) add_to_json(result.divergence, json);
    models.push_back(std::move(json));
  }
  Json json = results.size() == 1 ? std::move(models.front()) : Json{{"models", std::move(models)}};
  if (baseline != nullptr) {
    json["baseline"] = {{"model", baseline->path}};
    json["baseline"].update(to_json(baseline->score));
  }
  std::cout << json.dump(2) << '\n';
}

// The ratio of perplexities.
eval::Mean ratio(const eval::Divergence& d) {
  const double value = std::exp(d.nll_increase.value);
  return {value, value * d.nll_increase.std_error};
}

std::string shown(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.5f", value);
  return text;
}

void print_one(const Result& result, const Result* baseline) {
  if (baseline == nullptr) {
    std::printf("perplexity %s", mean_text(result.score.perplexity, 4).c_str());
    return;
  }
  const eval::Divergence& d = result.divergence;
  std::printf("perplexity       %s, baseline %s, ratio %s\n",
              mean_text(result.score.perplexity, 4).c_str(),
              mean_text(baseline->score.perplexity, 4).c_str(), mean_text(ratio(d), 4).c_str());
  std::printf("KL from baseline %s nats per token; median %s, 99th percentile %s, maximum %s\n",
              mean_text(d.kl, 5).c_str(), shown(d.kl_median).c_str(), shown(d.kl_p99).c_str(),
              shown(d.kl_max).c_str());
  std::printf("top-1 agreement  %s\n", mean_text(d.top1_agreement, 4).c_str());
  std::printf("measured");
}

void print_many(const std::vector<Result>& results, const Result* baseline) {
  std::vector<std::vector<std::string>> rows;
  rows.push_back({"checkpoint", "perplexity"});
  if (baseline != nullptr)
    rows.back().insert(rows.back().end(),
                       {"ratio", "KL from baseline", "median", "99 %", "max", "top-1 agreement"});
  for (const Result& result : results) {
    rows.push_back({result.path, mean_text(result.score.perplexity, 4)});
    if (baseline == nullptr) continue;
    const eval::Divergence& d = result.divergence;
    rows.back().insert(rows.back().end(),
                       {mean_text(ratio(d), 4), mean_text(d.kl, 5), shown(d.kl_median),
                        shown(d.kl_p99), shown(d.kl_max), mean_text(d.top1_agreement, 4)});
  }
  if (baseline != nullptr)
    rows.push_back({baseline->path, mean_text(baseline->score.perplexity, 4), "baseline"});
  print_rows(rows);
  std::cout << "measured" << std::flush;
}

void print_text(const std::vector<Result>& results, const Result* baseline,
                const eval::WindowOptions& options) {
  if (results.size() == 1)
    print_one(results.front(), baseline);
  else
    print_many(results, baseline);
  std::printf(" over %lld tokens in %lld window%s of %lld",
              static_cast<long long>(results.front().score.num_tokens),
              static_cast<long long>(results.front().score.num_windows),
              results.front().score.num_windows == 1 ? "" : "s",
              static_cast<long long>(options.seq_len));
  if (options.stride != 0) std::printf(" every %lld", static_cast<long long>(options.stride));
  std::printf("\n");
}

// The scores of all ranks' windows, at the first rank.
eval::TokenScores gathered(cluster::Cluster& ranks, eval::TokenScores own) {
  if (ranks.size() == 1) return own;
  std::string text;
  for (const std::vector<double>* values : own.fields()) {
    const size_t count = values->size();
    text.append(reinterpret_cast<const char*>(&count), sizeof count);
    text.append(reinterpret_cast<const char*>(values->data()), count * sizeof(double));
  }
  eval::TokenScores all;
  for (const std::string& from : ranks.gather(text)) {
    eval::TokenScores scores;
    const char* at = from.data();
    for (std::vector<double>* values : scores.fields()) {
      size_t count = 0;
      std::memcpy(&count, at, sizeof count);
      values->resize(count);
      if (count > 0) std::memcpy(values->data(), at + sizeof count, count * sizeof(double));
      at += sizeof count + count * sizeof(double);
    }
    all.append(std::move(scores));
  }
  return all;
}

// What the baseline computes, from the cache where it is there.
eval::ScoredHidden hidden_of_baseline(const EvalFlags& flags, const eval::EvalModel& baseline,
                                      const eval::Windows& windows,
                                      const eval::LayersDone& progress) {
  const std::filesystem::path directory = flags.cache_dir.empty()
                                              ? pipeline::default_cache_directory()
                                              : std::filesystem::path(flags.cache_dir);
  if (flags.no_cache || directory.empty()) return eval::scored_hidden(baseline, windows, progress);
  pipeline::HiddenCache::Result result =
      pipeline::HiddenCache({.directory = directory})
          .scored_hidden(baseline, flags.baseline, windows, progress);
  if (!result.problem.empty()) std::cerr << "laos: note: " << result.problem << '\n';
  return std::move(result.hidden);
}

void run_eval(const EvalFlags& flags) {
  if (flags.threads > 0) set_num_threads(flags.threads);
  check_flags(flags);
  if (!flags.tasks.tasks.empty())
    return run_eval_tasks(flags.tasks, flags.model_paths, flags.baseline,
                          arithmetic_of(flags.emulate), flags.bos(), flags.json, flags.progress);
  cluster::Cluster& ranks = job();
  require_readable_by_ranks(flags.text, "--text");
  print_warnings(pipeline::agree_on_arithmetic(ranks));
  if (ranks.rank() != 0) ranks.barrier();  // what is wrong is found by the first
  std::vector<std::unique_ptr<eval::EvalModel>> models;
  for (const std::string& path : flags.model_paths)
    models.push_back(eval::open_eval_model(path, arithmetic_of(flags.emulate)));
  std::unique_ptr<eval::EvalModel> baseline;
  if (!flags.baseline.empty()) baseline = eval::open_eval_model(flags.baseline);
  const eval::Windows windows = read_windows(flags, models.front()->config());
  if (ranks.rank() == 0) ranks.barrier();

  // Each rank has a share of the windows; the first one puts the scores together.
  const model::SampleRange range =
      eval::share_windows(windows, ranks.size())[static_cast<size_t>(ranks.rank())];
  const eval::Windows share(windows.begin() + range.first, windows.begin() + range.last);
  // For a person who waits; what reads a pipe wants the figures alone, unless it says otherwise.
  TerminalProgress progress(flags.progress,
                            ranks.rank() == 0 && (!flags.progress.empty() || stderr_is_terminal()));
  const auto layers_of = [&](const std::string& path, const eval::EvalModel& model) {
    progress.begin("eval " + path, model.config().num_hidden_layers + 1);
    return [&progress](int64_t done) { progress.step(done, ""); };
  };
  eval::ScoredHidden base_hidden;
  if (baseline && !share.empty())
    base_hidden = hidden_of_baseline(flags, *baseline, share, layers_of(flags.baseline, *baseline));
  std::vector<Result> results;
  Result base_result{.path = flags.baseline, .score = {}, .divergence = {}};
  for (size_t i = 0; i < models.size(); ++i) {
    const OverflowReport overflow(flags.model_paths[i], *models[i]);
    eval::TokenScores scores;
    if (!share.empty())
      scores = eval::score_tokens(
          eval::scored_hidden(*models[i], share, layers_of(flags.model_paths[i], *models[i])),
          baseline ? &base_hidden : nullptr, share);
    scores = gathered(ranks, std::move(scores));
    if (ranks.rank() != 0) continue;
    const eval::Comparison c = eval::summarize(std::move(scores), windows);
    results.push_back({.path = flags.model_paths[i], .score = c.model, .divergence = c.divergence});
    base_result.score = c.baseline;
  }
  progress.finish();
  if (ranks.rank() != 0) return;
  const Result* shown_baseline = baseline ? &base_result : nullptr;
  if (flags.json)
    print_json(results, shown_baseline);
  else
    print_text(results, shown_baseline, flags.windows);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand(
      "eval",
      "Perplexity of checkpoints on a text or accuracy on tasks, alone and beside a baseline");
  command
      ->add_option(both_spellings("--model-path"), flags->model_paths,
                   "checkpoint directory, float or quantized; several are compared in one table")
      ->required();
  command->add_option("--text", flags->text, std::string("what to score: ") + kDataFiles);
  CLI::Option* tasks =
      command
          ->add_option("--tasks", flags->tasks.tasks,
                       std::string("instead of --text, questions with answers to hold the model's "
                                   "against: JSON lines; without a file or as `") +
                           kDefaultTasks + "`, the set that comes with laos")
          ->expected(0, 1)
          ->type_name("[FILE]");
  command
      ->add_option(both_spellings("--max-new-tokens"), flags->tasks.max_new_tokens,
                   "tokens of an answer that is generated")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->needs(tasks)
      ->capture_default_str();
  add_chat_format(*command, flags->chat_format);
  add_bos_flags(*command, flags->bos);
  command->add_option(both_spellings("--seq-len"), flags->windows.seq_len, "tokens a window")
      ->capture_default_str();
  command
      ->add_option("--stride", flags->windows.stride,
                   "tokens from window to window; below --seq-len windows overlap and score only "
                   "what is new [--seq-len]")
      ->check(CLI::PositiveNumber);
  command
      ->add_option(both_spellings("--max-tokens"), flags->windows.max_tokens,
                   "score no more tokens than this")
      ->check(CLI::PositiveNumber);
  command->add_option(
      "--baseline", flags->baseline,
      "checkpoint to compare with, float or quantized: adds KL divergence and top-1 agreement");
  command->add_option(both_spellings("--cache-dir"), flags->cache_dir,
                      "where the baseline's hidden states are kept for the next evaluation "
                      "[$LAOS_CACHE_DIR, $XDG_CACHE_HOME/laos or ~/.cache/laos]");
  command->add_flag(both_spellings("--no-cache"), flags->no_cache, "keep and use none");
  add_emulate_option(*command, flags->emulate);
  command
      ->add_option("--threads", flags->threads, "threads to use; the result does not depend on it")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--json", flags->json, "print a JSON object");
  add_progress_option(*command, flags->progress);
  // What says how a text is read and cut.
  for (const char* name :
       {"--chat-format", "--seq-len", "--stride", "--max-tokens", "--cache-dir", "--no-cache"})
    command->get_option(name)->excludes(tasks);
  command->callback([flags, tasks] {
    if (tasks->count() > 0 && flags->tasks.tasks.empty()) flags->tasks.tasks = kDefaultTasks;
    run_eval(*flags);
  });
}

}  // namespace laos::cli
