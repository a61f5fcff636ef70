#include "cli/analyze.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>

#include "cli/budget.h"
#include "cli/data_path.h"
#include "cli/dataset_flags.h"
#include "cli/flags.h"
#include "cli/job.h"
#include "cli/progress.h"
#include "core/threads.h"
#include "io/file.h"
#include "pipeline/agree.h"
#include "pipeline/analyze.h"

namespace laos::cli {
namespace {

struct AnalyzeFlags {
  std::string model_path, config_path, groups, write_recipe, scratch_path;
  BudgetFlags budget;
  ProgressStyle progress;
  int64_t tokens = pipeline::AnalyzeOptions{}.tokens;
  DatasetFlags data;
  int threads = 0;
  bool kl = false, json = false;
};

pipeline::AnalyzeOptions options_of(const AnalyzeFlags& flags) {
  Problems problems;
  pipeline::AnalyzeOptions options;
  options.tokens = flags.tokens;
  options.kl = flags.kl || flags.budget.budget.max_kl;
  flags.budget.check(problems);
  if (!flags.groups.empty()) {
    options.groups.clear();
    std::istringstream names(flags.groups);
    for (std::string name; std::getline(names, name, ',');) {
      bool known = false;
      for (const model::LinearGroup group : model::kAllLinearGroups)
        if (name == pipeline::name_of(group)) known = options.groups.insert(group).second || true;
      if (!known)
        problems.add({.what = "`" + name + "` is not a group of linears",
                      .where = "--groups",
                      .fix = "name some of qkv, o, gate_up, down, with commas between"});
    }
  }
  problems.throw_if_any(ErrorCode::kUsage);
  return options;
}

void print_table(const pipeline::Analysis& analysis, const std::vector<bool>& high) {
  std::printf("%zu groups at %s, one at a time, on %lld tokens\n\n", analysis.groups.size(),
              widths_of(analysis.low).c_str(), static_cast<long long>(analysis.num_tokens));
  std::printf(
      "layer  group    weight   output    layer   max/RMS       kurtosis         cost    width\n"
      "                 error    error    error   before after  before  after\n");
  for (size_t i = 0; i < analysis.groups.size(); ++i) {
    const pipeline::GroupCost& g = analysis.groups[i];
    std::printf("%5lld  %-7s %6.2f %% %6.2f %% %6.2f %%  %6.1f %5.1f  %6.1f %6.1f  %10.3e  %s\n",
                static_cast<long long>(g.layer_idx), pipeline::name_of(g.group),
                100 * g.weight_error, 100 * g.output_error, 100 * g.layer_error,
                g.before.max_to_rms, g.after.max_to_rms, g.before.kurtosis, g.after.kurtosis,
                g.cost(),
                !g.is_candidate ? "as the recipe says"
                                : widths_of(high[i] ? analysis.high : analysis.low).c_str());
  }
}

nlohmann::ordered_json to_json(const pipeline::Analysis& analysis, const std::vector<bool>& high) {
  const auto outliers = [](const model::Outliers& o) {
    return nlohmann::ordered_json{{"max_to_rms", o.max_to_rms}, {"kurtosis", o.kurtosis}};
  };
  nlohmann::ordered_json json = {{"low", widths_of(analysis.low)},
                                 {"high", widths_of(analysis.high)},
                                 {"tokens", analysis.num_tokens},
                                 {"held_back", analysis.is_held_back},
                                 {"parameters", analysis.parameters}};
  json["groups"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < analysis.groups.size(); ++i) {
    const pipeline::GroupCost& g = analysis.groups[i];
    json["groups"].push_back({{"layer", g.layer_idx},
                              {"group", pipeline::name_of(g.group)},
                              {"parameters", g.parameters},
                              {"candidate", g.is_candidate},
                              {"weight_error", g.weight_error},
                              {"output_error", g.output_error},
                              {"layer_error", g.layer_error},
                              {"stream_error", g.stream_error},
                              {"kl", g.kl},  // null where it is NaN
                              {"before", outliers(g.before)},
                              {"after", outliers(g.after)},
                              {"high", static_cast<bool>(high[i])}});
  }
  return json;
}

void run_analyze(const AnalyzeFlags& flags) {
  if (flags.threads > 0) set_num_threads(flags.threads);
  const pipeline::AnalyzeOptions options = options_of(flags);
  pipeline::QuantOptions quant;
  quant.model_path = flags.model_path;
  quant.recipe_path = flags.config_path;
  flags.data.apply_to(quant);
  quant.hold_back = 0;
  quant.scratch_path = flags.scratch_path;
  quant.writes = false;
  quant.reads_dataset = true;
  cluster::Cluster& ranks = job();
  print_warnings(pipeline::agree_on_arithmetic(ranks));
  if (!is_first_rank()) ranks.barrier();
  pipeline::Plan plan = pipeline::make_plan(quant);
  if (is_first_rank()) {
    print_warnings(plan.warnings);
    ranks.barrier();
  }
  pipeline::agree_on_plan(plan, ranks);
  pipeline::Analysis analysis = pipeline::begin_analysis(plan, options);
  if (is_first_rank())
    std::fprintf(stderr, "%s\n",
                 estimate_text(pipeline::estimate(plan, analysis, options)).c_str());
  TerminalProgress progress(flags.progress, is_first_rank());
  try {
    pipeline::analyze(plan, options, analysis, progress, ranks);
  } catch (...) {
    progress.finish();
    throw;
  }
  progress.finish();
  if (!is_first_rank()) return;
  const std::vector<bool> high = pipeline::choose_high(analysis, flags.budget.budget);
  if (flags.json)
    std::cout << to_json(analysis, high).dump(1) << '\n';
  else
    print_table(analysis, high);
  std::FILE* out = flags.json ? stderr : stdout;
  const std::string summary = summary_of(analysis, high);
  std::fprintf(out, "\n%s", summary.c_str());
  if (flags.write_recipe.empty()) return;
  const std::filesystem::path file = flags.write_recipe;
  const std::string yaml = pipeline::recipe_with(
      plan, analysis, high, plan.recipe.metadata.config_id + "-analyzed", file);
  (void)recipe::parse_recipe(yaml, file.string());  // what is written can be read
  std::string comment =
      "# Widths chosen by laos analyze, from " + plan.recipe.metadata.config_id + ":\n";
  std::istringstream lines(summary);
  for (std::string line; std::getline(lines, line);) comment += "#   " + line + "\n";
  io::write_text_atomically(file, comment + yaml);
  std::fprintf(out, "recipe    %s\n", file.string().c_str());
}

}  // namespace

void add_analyze_command(CLI::App& app) {
  auto flags = std::make_shared<AnalyzeFlags>();
  CLI::App* command = app.add_subcommand("analyze",
                                         "Measure what each group of linears (qkv, o, gate_up, "
                                         "down) of each layer costs at a recipe's "
                                         "low width, and choose which should have the high one");
  command
      ->add_option(both_spellings("--model-path"), flags->model_path,
                   "Hugging Face checkpoint directory")
      ->required();
  command
      ->add_option(both_spellings("--config-path"), flags->config_path,
                   "recipe whose widths, rotation and smoothing are meant")
      ->required();
  add_dataset_options(*command, flags->data);
  command->add_option("--tokens", flags->tokens, "tokens to measure on, at most")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_flag(
      "--kl", flags->kl,
      "cost is each group's KL divergence at the model's end, not its error behind the "
      "layer; takes longer");
  command->add_option("--groups", flags->groups,
                      "groups whose width may be chosen, as gate_up,down (default: all)");
  add_budget_options(*command, flags->budget);
  command->add_option("--tmp", flags->scratch_path,
                      "directory for hidden states (default: they stay in memory)");
  command->add_option(both_spellings("--write-recipe"), flags->write_recipe,
                      "file for the recipe with the chosen widths, as laos quant runs it");
  command
      ->add_option("--threads", flags->threads, "threads to use; the result does not depend on it")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--json", flags->json, "print a JSON object");
  add_progress_option(*command, flags->progress);
  command->callback([flags] { run_analyze(*flags); });
}

}  // namespace laos::cli
