#include "cli/quant.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "cli/check.h"
#include "cli/compute_dtype.h"
#include "cli/data_path.h"
#include "cli/dataset_flags.h"
#include "cli/flags.h"
#include "cli/job.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "core/memory.h"
#include "core/threads.h"
#include "core/units.h"
#include "hf/config.h"
#include "hf/layer_spec.h"
#include "io/file.h"
#include "pipeline/agree.h"
#include "pipeline/division.h"
#include "pipeline/record.h"
#include "save/format.h"

namespace laos::cli {
namespace {

using Json = nlohmann::ordered_json;

struct QuantFlags {
  std::string model_type, model_path, save_path, device = "cpu", config_path, quant_type,
                                                 trust_remote_code, recipes, format;
  std::string compute_dtype = "auto";
  std::string scratch_path;
  uint64_t max_memory = 0;
  std::vector<std::string> tag;
  DatasetFlags data;
  std::optional<int64_t> hold_back;
  int threads = 0;
  uint32_t seed = 42;
  bool dry_run = false;
  bool debug = false;
  bool restart = false;
  bool no_health = false;
  VerdictFlags verdict;
  bool local_model = false;
  int ranks = 0;
  std::string health_text;
  bool fast = false, balanced = false, full = false;
};

// "0, 2, 4-7"
std::string ranges_text(const std::vector<int64_t>& sorted) {
  std::string text;
  for (size_t i = 0; i < sorted.size();) {
    size_t last = i;
    while (last + 1 < sorted.size() && sorted[last + 1] == sorted[last] + 1) ++last;
    text += (text.empty() ? "" : ", ") + std::to_string(sorted[i]);
    if (last > i) text += "-" + std::to_string(sorted[last]);
    i = last + 1;
  }
  return text.empty() ? "none" : text;
}

// The only device is this machine's processor, perhaps with an index as in "cpu:0".
void check_device(const std::string& device, Problems& problems) {
  const auto refuse = [&](const std::string& what) {
    problems.add({.what = what,
                  .where = "--device",
                  .fix = "use --device cpu; the checkpoint it writes is for the NPU"});
  };
  const size_t colon = device.find(':');
  if (device.substr(0, colon) != "cpu")
    return refuse("device `" + device + "` is not one that laos runs on");
  if (colon == std::string::npos) return;
  int count = 0;
  std::istringstream indices(device.substr(colon + 1));
  for (std::string index; std::getline(indices, index, ',');) {
    if (index.empty()) continue;
    if (index.find_first_not_of("0123456789") != std::string::npos)
      return refuse("`" + index + "` in device `" + device + "` is not an index");
    ++count;
  }
  if (count > 1) refuse("device `" + device + "` names the processor more than once");
}

// What the recipe is chosen by; nullopt when it cannot be read, which the plan will say.
std::optional<recipe::ModelFacts> facts_of(const std::string& model_path) {
  try {
    const hf::Config config = hf::read_config(model_path);
    return recipe::ModelFacts{config.architecture, config.num_hidden_layers, config.hidden_size};
  } catch (const Error&) {
    return std::nullopt;
  }
}

// The recipe where --config_path does not name one. Without --model_type config.json says what
// model it is.
void choose_recipe(const QuantFlags& flags, const std::string& profile,
                   pipeline::QuantOptions& options) {
  std::string quant_type = flags.quant_type;
  if (quant_type.empty()) quant_type = profile.empty() ? "w8a8" : "w4a4";
  const auto say = [](const std::string& text) {
    if (is_first_rank()) std::fprintf(stderr, "laos: %s\n", text.c_str());
  };
  if (flags.quant_type.empty() && profile.empty())
    say("neither --config_path nor --quant_type is given: w8a8 is meant");
  const std::optional<recipe::ModelFacts> facts = facts_of(flags.model_path);
  if (!facts && flags.model_type.empty()) (void)hf::read_config(flags.model_path);  // says why
  const recipe::RecipeChoice choice = recipe::choose_recipe(
      recipe_directories(flags.recipes), {flags.model_type, quant_type, profile, flags.tag, facts});
  if (!choice.note.empty()) say(choice.note);
  options.recipe_path = choice.path;
  if (flags.model_type.empty() && choice.model_type != facts->architecture)
    options.model_type = choice.model_type;
}

// A recipe that is named is taken for any model, but the name of another model is a mistake.
void warn_of_wrong_model_type(const QuantFlags& flags) {
  if (flags.model_type.empty() || !is_first_rank()) return;
  const std::optional<recipe::ModelFacts> facts = facts_of(flags.model_path);
  if (!facts) return;
  if (const auto wrong = recipe::wrong_model_type(
          recipe::list_model_types(recipe_directories(flags.recipes)), flags.model_type, *facts))
    std::fprintf(stderr, "laos: warning: %s\n", wrong->what.c_str());
}

// Everything the command line alone can get wrong, at once.
pipeline::QuantOptions options_of(const QuantFlags& flags) {
  Problems problems;
  pipeline::QuantOptions options;
  check_device(flags.device, problems);
  if (!flags.config_path.empty() && !flags.quant_type.empty())
    problems.add({.what = "both a recipe and a quantization type are given",
                  .where = "--config_path, --quant_type",
                  .fix = "give one of them"});
  if (!flags.trust_remote_code.empty() && flags.trust_remote_code != "True" &&
      flags.trust_remote_code != "False")
    problems.add({.what = "\"" + flags.trust_remote_code + "\" is neither True nor False",
                  .where = "--trust_remote_code",
                  .fix = "leave it out: laos never runs code from a checkpoint"});
  const int num_profiles = (flags.fast ? 1 : 0) + (flags.balanced ? 1 : 0) + (flags.full ? 1 : 0);
  if (num_profiles > 1 || (num_profiles == 1 && !flags.config_path.empty()))
    problems.add({.what = "--fast, --balanced, --full and --config_path each choose the recipe",
                  .where = "command line",
                  .fix = "give one of them"});
  problems.throw_if_any(ErrorCode::kUsage);

  options.model_path = flags.model_path;
  options.save_path = flags.save_path;
  const std::string profile = flags.fast       ? "fast"
                              : flags.balanced ? "balanced"
                              : flags.full     ? "full"
                                               : "";
  options.model_type = flags.model_type;
  options.format = flags.format;
  if (flags.config_path.empty()) {
    choose_recipe(flags, profile, options);
  } else {
    options.recipe_path = flags.config_path;
    warn_of_wrong_model_type(flags);
  }
  if (options.model_type.empty()) {
    const std::filesystem::path directory =
        std::filesystem::path(flags.model_path).lexically_normal();
    options.model_type =
        (directory.has_filename() ? directory : directory.parent_path()).filename().string();
  }
  flags.data.apply_to(options);
  options.hold_back = flags.hold_back;
  options.seed = flags.seed;
  options.restart = flags.restart;
  options.local_model = flags.local_model;
  options.compute = compute_type_of(flags.compute_dtype);
  options.scratch_path = flags.scratch_path;
  options.dry_run = flags.dry_run;
  options.checks = !flags.no_health;
  options.max_memory = static_cast<int64_t>(flags.max_memory);
  return options;
}

// Who does what, and what it costs, when the job is shared.
void print_ranks(const pipeline::Plan& plan, int num_ranks, const pipeline::Estimate& estimate) {
  const auto duration_of = [&](double flops) {
    return rough_duration_text(flops * (estimate.seconds - estimate.health_seconds) /
                               std::max(1.0, estimate.flops));
  };
  const pipeline::PlanCosts costs = pipeline::costs_of(plan);
  const std::vector<bool> none(costs.layers.size(), false);
  const pipeline::Division division = pipeline::divide(plan, costs, none, num_ranks);
  const std::vector<pipeline::RankPrice> prices = pipeline::price(plan, costs, division);
  double all = 0, most = 0;
  int64_t wire = 0;
  std::printf("\n%-4s  %-24s  %8s  %8s  %9s  %9s  %9s  %9s\n", "rank", "layers", "tokens", "work",
              "peak RAM", "states", "sends", "receives");
  for (size_t r = 0; r < prices.size(); ++r) {
    const pipeline::RankPrice& p = prices[r];
    all += p.flops;
    most = std::max(most, p.flops);
    wire += p.sent_bytes;
    std::printf("%-4zu  %-24s  %8lld  %8s  %9s  %9s  %9s  %9s\n", r, ranges_text(p.layers).c_str(),
                static_cast<long long>(p.tokens), duration_of(p.flops).c_str(),
                bytes_text(p.peak_ram_bytes).c_str(), bytes_text(p.state_bytes).c_str(),
                bytes_text(p.sent_bytes).c_str(), bytes_text(p.received_bytes).c_str());
  }
  const double mean = all / static_cast<double>(prices.size());
  std::printf("ranks     %d, in %zu waves of layers; the busiest has %.2f of the mean\n", num_ranks,
              division.waves.size(), most / mean);
  std::printf("time      about %s, with every rank like this machine\n",
              duration_of(prices.front().job_flops).c_str());
  std::printf("wire      %s in all\n", bytes_text(wire).c_str());
}

std::string default_dataset_text(const pipeline::Plan& plan) {
  const pipeline::Samples& samples =
      plan.samples->empty() && !plan.fits.empty() ? *plan.fits.front().samples : *plan.samples;
  return "calibration data: the set that comes with laos (" +
         std::to_string(samples.size() + plan.held_back->size()) +
         " samples); your own text is better: --dataset";
}

void print_plan(const pipeline::Plan& plan, const pipeline::Estimate& estimate) {
  size_t width = 0;
  for (const pipeline::PlannedLinear& linear : plan.linears)
    width = std::max(width, linear.name.size());
  double quantized = 0, four_bit = 0, all = 0;
  for (const pipeline::PlannedLinear& linear : plan.linears) {
    std::printf("%-*s  %-14s  %s\n", static_cast<int>(width), linear.name.c_str(),
                linear.label.c_str(), linear.decided_by.c_str());
    const hf::Config& config = plan.checkpoint.config();
    const double size = static_cast<double>(model::out_features(config, linear.linear)) *
                        static_cast<double>(model::in_features(config, linear.linear));
    all += size;
    if (linear.scheme) quantized += size;
    if (linear.scheme && linear.scheme->weight.bits == 4) four_bit += size;
  }
  std::printf("\nrecipe    %s (%s)\n", plan.recipe.metadata.config_id.c_str(),
              plan.recipe.path.string().c_str());
  std::printf("weights   %.1f %% of the linear weights in integers, %.1f %% at 4 bits\n",
              100 * quantized / all, 100 * four_bit / all);
  const auto counted = [](const pipeline::Samples& samples) {
    int64_t tokens = 0;
    for (const std::vector<int32_t>& sample : samples) tokens += std::ssize(sample);
    return std::to_string(samples.size()) + ", " + std::to_string(tokens) + " tokens";
  };
  std::printf("samples   %s", counted(*plan.samples).c_str());
  for (const pipeline::PlannedFit& fit : plan.fits)
    if (fit.samples != plan.samples)
      std::printf("; for the rotation alone %s", counted(*fit.samples).c_str());
  if (!plan.held_back->empty())
    std::printf("; %zu more held back for the health check", plan.held_back->size());
  std::printf("\n");
  if (plan.is_default_dataset) std::printf("          %s\n", default_dataset_text(plan).c_str());
  std::printf("disk      %s", bytes_text(estimate.disk_bytes).c_str());
  if (estimate.scratch_bytes > 0)
    std::printf(", and %s for hidden states until the end",
                bytes_text(estimate.scratch_bytes).c_str());
  std::printf("\n");
  std::printf("peak RAM  about %s\n", bytes_text(estimate.peak_ram_bytes).c_str());
  std::printf("time      %s %s (%.1f TFLOP; this machine multiplies at %.0f GFLOP/s",
              estimate.may_end_early ? "at most" : "about",
              rough_duration_text(estimate.seconds).c_str(), estimate.flops / 1e12,
              estimate.gemm_gflops);
  if (plan.options.compute == linalg::ComputeType::kBf16)
    std::printf(", in bf16 at %.0f", estimate.train_gflops);
  std::printf(")");
  if (estimate.health_seconds > 0)
    std::printf(", the health check %s of it",
                rough_duration_text(estimate.health_seconds).c_str());
  std::printf("\n");
}

// What the run learned, for looking into it afterwards.
void write_debug_info(const pipeline::Plan& plan, const pipeline::RunResult& result) {
  Json info = {{"version", LAOS_VERSION}, {"seed", plan.options.seed}};
  info["adapt_rotation"] = Json::array();
  for (const rotation::FitResult& fit : result.fits) {
    Json losses = Json::array();
    for (const rotation::FitStep& step : fit.steps) losses.push_back(step.loss);
    info["adapt_rotation"].push_back(
        {{"best_step", fit.best_step}, {"orthogonality", fit.orthogonality}, {"losses", losses}});
  }
  info["autoround_quant"] = Json::array();
  for (const autoround::LayerReport& layer : result.layers)
    info["autoround_quant"].push_back({{"rounding_loss", layer.rounding_loss},
                                       {"loss", layer.loss},
                                       {"kept_iteration", layer.kept_iteration},
                                       {"losses", layer.losses}});
  const std::filesystem::path directory = plan.options.save_path / "debug_info";
  std::error_code error;
  std::filesystem::create_directory(directory, error);
  io::write_text_atomically(directory / "debug_info.json", info.dump(1) + "\n");
}

// "rotation 1 of 1, layer 3 of 8"
std::string parts_text(const save::WorkStatus& status) {
  std::string text;
  for (const auto& [kind, parts] : status.parts) {
    if (parts.planned == 0) continue;
    text += (text.empty() ? "" : ", ") + kind + " " + std::to_string(parts.done) + " of " +
            std::to_string(parts.planned);
  }
  return text;
}

pipeline::RunResult run_plan(const pipeline::Plan& plan, TerminalProgress& progress) {
  const StopOnSignals stop_on_signals;
  try {
    return pipeline::run(plan, progress, job());
  } catch (const Error& error) {
    progress.finish();
    if (error.code() != ErrorCode::kStopped) throw;
    const save::WorkStatus left = save::work_status(plan.options.save_path);
    throw Error(ErrorCode::kStopped,
                {.what = left.has_work ? "stopped; finished and kept: " + parts_text(left)
                                       : "stopped before anything was finished; nothing is kept",
                 .where = plan.options.save_path.string(),
                 .fix = left.has_work ? "repeat the command to go on from there" : ""});
  } catch (...) {
    progress.finish();
    throw;
  }
}

void print_rank_records(const std::vector<report::Rank>& ranks) {
  if (ranks.empty()) return;
  double busiest = 0, sum = 0, sent = 0;
  for (const report::Rank& rank : ranks) {
    const double busy = rank.seconds - rank.wait_seconds;
    busiest = std::max(busiest, busy);
    sum += busy;
    sent += static_cast<double>(rank.sent_bytes);
  }
  std::printf("ranks     %zu; the busiest worked %.1f s, %.2f of the mean; %s sent\n", ranks.size(),
              busiest, busiest * static_cast<double>(ranks.size()) / sum, bytes_text(sent).c_str());
}

// What the finished checkpoint is checked on, if at all: read before the run, which must not end in
// a missing file.
std::optional<pipeline::HealthText> health_text_of(const QuantFlags& flags,
                                                   const pipeline::Plan& plan) {
  if (flags.no_health) return std::nullopt;
  if (!flags.health_text.empty()) {
    pipeline::HealthText text = pipeline::load_health_text(
        flags.health_text, plan.options.model_path, plan.options.chat_format,
        pipeline::health_size(plan, pipeline::costs_of(plan)), plan.options.bos);
    text.calibrated = pipeline::is_calibrated_on(plan, text);
    print_warnings(text.warnings);
    return text;
  }
  return pipeline::health_text(plan);
}

void run_quant(const QuantFlags& flags, int& exit_code) {
  if (flags.threads > 0) set_num_threads(flags.threads);
  if (flags.ranks > 0 && !flags.dry_run)
    throw Error(ErrorCode::kUsage, {.what = "--ranks says for how many ranks a plan is priced",
                                    .where = "command line",
                                    .fix = "add --dry-run, or start that many: mpirun -n " +
                                           std::to_string(flags.ranks) + " laos quant ..."});
  cluster::Cluster& ranks = job();
  const bool is_first = is_first_rank();
  print_warnings(pipeline::agree_on_arithmetic(ranks));
  pipeline::QuantOptions options = options_of(flags);
  // What is wrong is found by the first; the others need not look at the output.
  if (!is_first) ranks.barrier();
  options.writes = is_first;
  pipeline::Plan plan = pipeline::make_plan(options);
  if (is_first) {
    print_warnings(plan.warnings);
    ranks.barrier();
  }
  pipeline::agree_on_plan(plan, ranks);
  if (flags.dry_run) {
    if (!is_first) return;
    const pipeline::Estimate estimate = pipeline::estimate(plan);
    print_plan(plan, estimate);
    for (const Problem& refusal : plan.refusals)
      std::printf("refused   %s\n  at:  %s\n  fix: %s\n", refusal.what.c_str(),
                  refusal.where.c_str(), refusal.fix.c_str());
    exit_code = plan.refusals.empty() ? 0 : 1;
    const int num_ranks = flags.ranks > 0 ? flags.ranks : ranks.size();
    if (num_ranks > 1) print_ranks(plan, num_ranks, estimate);
    return;
  }
  if (is_first && plan.is_default_dataset) {
    std::printf("%s\n", default_dataset_text(plan).c_str());
    std::fflush(stdout);
  }
  const std::optional<pipeline::HealthText> health_text =
      is_first ? health_text_of(flags, plan) : std::nullopt;
  TerminalProgress progress(is_first, pipeline::part_costs(plan, pipeline::costs_of(plan)));
  const auto watch = [start = std::chrono::steady_clock::now()] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  if (!plan.options.restart && is_first)
    if (const save::WorkStatus kept = save::work_status(plan.options.save_path); kept.has_work)
      std::fprintf(stderr, "laos: going on with an interrupted run; finished: %s\n",
                   parts_text(kept).c_str());
  const pipeline::RunResult result = run_plan(plan, progress);
  progress.finish();
  if (!is_first) return;
  if (flags.debug) write_debug_info(plan, result);
  const double seconds = watch();
  for (const rotation::FitResult& fit : result.fits) {
    const double plain = fit.steps.front().loss;
    const auto kept =
        std::find_if(fit.steps.begin(), fit.steps.end(),
                     [&](const rotation::FitStep& step) { return step.step == fit.best_step; });
    LAOS_ASSERT(kept != fit.steps.end());
    if (fit.best_step == 0)
      std::printf("rotation  plain Hadamard: no fitted step was better\n");
    else
      std::printf(
          "rotation  step %lld: activation error %+.1f %% against the plain Hadamard matrix\n",
          static_cast<long long>(fit.best_step), 100 * (kept->loss / plain - 1));
  }
  std::printf("saved     %s\n", plan.options.save_path.string().c_str());
  std::printf("size      %s\n", bytes_text(save::planned_bytes(plan.job)).c_str());
  std::printf("time      %.1f s (rotation %.1f, layers %.1f, save %.1f)\n", seconds,
              result.fit_seconds, result.quantize_seconds, result.save_seconds);
  print_rank_records(result.ranks);
  std::printf("peak RSS  %s\n", bytes_text(peak_rss_bytes()).c_str());

  report::RunRecord record = pipeline::record_of(plan, result, LAOS_VERSION, seconds);
  report::write_run(plan.options.save_path, record);  // stays whatever the check does
  std::printf("report    %s\n", (plan.options.save_path / report::kPageFile).string().c_str());
  if (!health_text) return;
  std::printf("checking  the saved checkpoint beside the float model\n");
  std::fflush(stdout);  // all that was written is there, whatever comes of the check
  record.health = run_health_check(plan.options.save_path, plan.options.model_path, *health_text,
                                   progress, result.rotation);
  record.timings.total = watch();
  record.timings.health = record.timings.total - seconds;
  record.peak_rss_bytes = peak_rss_bytes();
  report::write_run(plan.options.save_path, record);
  print_health(*record.health);
  print_verdict(*record.health);
  exit_code = exit_code_of(*record.health, flags.verdict);
}

}  // namespace

void add_quant_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<QuantFlags>();
  CLI::App* command = app.add_subcommand("quant", "Quantize a Hugging Face checkpoint by a recipe");
  command->add_option(
      both_spellings("--model-type"), flags->model_type,
      "model name, as Qwen3-8B; chooses the recipe of --quant-type and names the exported one "
      "(default: what config.json says)");
  command
      ->add_option(both_spellings("--model-path"), flags->model_path,
                   "Hugging Face checkpoint directory")
      ->required();
  command->add_option(both_spellings("--save-path"), flags->save_path, "directory to write")
      ->required();
  std::vector<std::string> formats;
  for (const save::Format* format : save::formats()) formats.emplace_back(format->name());
  command
      ->add_option("--format", flags->format,
                   "of the checkpoint, instead of the recipe's saver: ascendv1 for NPUs, "
                   "compressed-tensors for transformers and vLLM")
      ->check(CLI::IsMember(formats));
  command->add_option("--device", flags->device, "cpu")->capture_default_str();
  command->add_option(both_spellings("--config-path"), flags->config_path,
                      "recipe: YAML of apiversion modelslim_v1");
  command->add_option(both_spellings("--quant-type"), flags->quant_type,
                      "w4a4, w8a8, ...: use the recipe for this model, see laos recipes (default "
                      "without --config-path: w8a8; with --fast, --balanced or --full: w4a4)");
  command->add_flag("--fast", flags->fast,
                    "of --quant-type w4a4: the published scheme in closed form, no training");
  command->add_flag("--balanced", flags->balanced,
                    "of --quant-type w4a4: every linear W4A4 but " +
                        std::string(hf::short_name(hf::Linear::kDownProj)) + ", no training");
  command->add_flag("--full", flags->full, "of --quant-type w4a4: every linear W4A4");
  add_dataset_options(*command, flags->data);
  command
      ->add_option(both_spellings("--hold-back"), flags->hold_back,
                   "calibration samples to keep for the health check alone (default: one in 64, 4 "
                   "at most)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  command
      ->add_option("--threads", flags->threads,
                   "threads to use; the result does not depend on it (default: all)")
      ->check(CLI::Range(1, 4096));
  add_compute_dtype(*command, flags->compute_dtype);
  command
      ->add_option(both_spellings("--max-memory"), flags->max_memory,
                   "memory that the run may take, like 6GB or 512MiB: larger batches go in pieces, "
                   "with the same result (default: what the machine has)")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 62));
  command->add_option("--tmp", flags->scratch_path,
                      "directory for the hidden states of the calibration data, which the plan "
                      "prices (default: inside --save-path)");
  command->add_option("--seed", flags->seed, "of the samples that --nsamples and training draw")
      ->capture_default_str();
  command->add_flag(both_spellings("--dry-run"), flags->dry_run,
                    "print the plan and what it will cost, and stop");
  command
      ->add_option("--ranks", flags->ranks,
                   "with --dry-run: also who does what among so many ranks (mpirun -n)")
      ->check(CLI::Range(1, 100000));
  command->add_flag(both_spellings("--local-model"), flags->local_model,
                    "under mpirun: --model-path is each machine's own copy of the model, not a "
                    "directory they share");
  command->add_flag("--restart", flags->restart,
                    "begin again where an interrupted run would be gone on with");
  command->add_option(
      both_spellings("--trust-remote-code"), flags->trust_remote_code,
      "True or False; accepted for old command lines, laos never runs a checkpoint's code");
  command
      ->add_option("--tag", flags->tag,
                   "scenario tags that a recipe's verified_tags must have, for --quant-type")
      ->expected(0, -1);
  command->add_option("--recipes", flags->recipes,
                      "directory of recipes that --quant-type asks before laos's own; "
                      "MSMODELSLIM_CUSTOM_PRACTICE_REPO names another");
  command->add_flag("--debug", flags->debug,
                    "also write save_path/debug_info/debug_info.json: losses of every step");
  add_verdict_flags(*command, flags->verdict);
  command->add_flag(both_spellings("--no-health"), flags->no_health,
                    "do not check the finished checkpoint beside the float one");
  command->add_option(
      both_spellings("--health-text"), flags->health_text,
      "text to check on instead of the samples held back, in any form of --dataset");
  command->callback([flags, &exit_code] { run_quant(*flags, exit_code); });
}

}  // namespace laos::cli
