#include "cli/quant.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "cli/budget.h"
#include "cli/check.h"
#include "cli/compute_dtype.h"
#include "cli/data_path.h"
#include "cli/dataset_flags.h"
#include "cli/exit_codes.h"
#include "cli/flags.h"
#include "cli/job.h"
#include "cli/plan_json.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "cli/timing.h"
#include "core/memory.h"
#include "core/threads.h"
#include "core/units.h"
#include "core/words.h"
#include "hf/config.h"
#include "hf/data_file.h"
#include "hf/layer_spec.h"
#include "io/file.h"
#include "model/cached_layer.h"
#include "pipeline/agree.h"
#include "pipeline/analyze.h"
#include "pipeline/division.h"
#include "pipeline/record.h"
#include "recipe/preset.h"
#include "save/format.h"
#include "scheme/schemes.h"

namespace laos::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kAutoProfile = "auto";

struct QuantFlags {
  std::string model_type, model_path, save_path, device = "cpu", config_path, quant_type,
                                                 trust_remote_code, recipes, kv_cache;
  std::vector<std::string> formats;
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
  bool timing = false;
  VerdictFlags verdict;
  bool local_model = false;
  int ranks = 0;
  std::string health_text;
  // Of them at most one; Profile::chosen.
  bool chosen_profiles[4] = {};
  bool online = false, online_columns = false, no_clip = false;
  std::vector<int64_t> tp;
  BudgetFlags budget;
  ProgressStyle progress;
  bool json = false;
  recipe::Preset preset;
  bool print_recipe = false;

  // Where figures for people go: standard output holds one JSON document where that is asked for.
  std::FILE* out() const { return json ? stderr : stdout; }
  std::string profile() const;
  bool is_auto() const { return profile() == kAutoProfile; }
};

struct Profile {
  std::string name;
  std::string help;
};
// What --NAME means, in the order of QuantFlags::chosen_profiles.
const std::array<Profile, 4>& profiles() {
  static const std::array<Profile, 4> kProfiles = {{
      {"fast", "of --quant-type w4a4: the published scheme in closed form, no training"},
      {"balanced", "of --quant-type w4a4: every linear W4A4 but " +
                       std::string(hf::short_name(hf::Linear::kDownProj)) + ", no training"},
      {"full", "of --quant-type w4a4: every linear W4A4"},
      {kAutoProfile,
       "of --quant-type w4a4: which linears are W4A4 is measured and chosen within a budget, "
       "by default as many weights as the recipe says; no training"},
  }};
  return kProfiles;
}

std::string QuantFlags::profile() const {
  for (size_t i = 0; i < profiles().size(); ++i)
    if (chosen_profiles[i]) return profiles()[i].name;
  return "";
}

// "--fast, --balanced, --full or --auto"
std::string profile_flags(const char* last) {
  std::string text;
  for (size_t i = 0; i < profiles().size(); ++i)
    text += (i == 0                       ? "--"
             : i + 1 == profiles().size() ? std::string(" ") + last + " --"
                                          : ", --") +
            profiles()[i].name;
  return text;
}

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

// The recipe where --config-path does not name one. Without --model-type config.json says what
// model it is.
void choose_recipe(const QuantFlags& flags, const std::string& profile,
                   pipeline::QuantOptions& options) {
  std::string quant_type = flags.quant_type;
  if (quant_type.empty()) quant_type = profile.empty() ? "w8a8" : "w4a4";
  const auto say = [](const std::string& text) {
    if (is_first_rank()) std::fprintf(stderr, "laos: %s\n", text.c_str());
  };
  if (flags.quant_type.empty() && profile.empty())
    say("neither --config-path nor --quant-type is given: w8a8 is meant");
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

constexpr const char* kPresetFormat = "compressed-tensors";

void check_preset(const QuantFlags& flags, Problems& problems) {
  const recipe::Preset& preset = flags.preset;
  std::vector<std::string> given;
  const auto note = [&](bool is_given, const std::string& name) {
    if (is_given) given.push_back(name);
  };
  if (preset.scheme.empty()) {
    note(preset.group_size.has_value(), "--group-size");
    note(!preset.ignore.empty(), "--ignore");
    note(!preset.method.empty(), "--method");
    note(preset.iters.has_value(), "--iters");
    note(preset.rotates.has_value(), preset.rotates.value_or(true) ? "--rotate" : "--no-rotate");
    if (!given.empty())
      problems.add({.what = "options of --scheme are given without it",
                    .where = listed(given),
                    .fix = "add --scheme, or say it in a recipe"});
    return;
  }
  note(!flags.config_path.empty(), "--config-path");
  note(!flags.quant_type.empty(), "--quant-type");
  if (!flags.profile().empty()) given.push_back("--" + flags.profile());
  note(flags.online, "--online");
  note(flags.online_columns, "--online-columns");
  note(!flags.tag.empty(), "--tag");
  if (!given.empty())
    problems.add({.what = "--scheme says the whole recipe",
                  .where = listed(given),
                  .fix = "leave them out, or leave out --scheme"});
}

void make_preset(const QuantFlags& flags, pipeline::QuantOptions& options) {
  recipe::Preset preset = flags.preset;
  preset.saver_type = save::format_named(kPresetFormat).saver_type();  // --format follows
  options.recipe_text = recipe::preset_yaml(preset, hf::read_config(flags.model_path));
  options.recipe_path = "--scheme " + preset.scheme;
}

// Everything the command line alone can get wrong, at once.
pipeline::QuantOptions options_of(const QuantFlags& flags) {
  Problems problems;
  pipeline::QuantOptions options;
  check_device(flags.device, problems);
  if (!flags.config_path.empty() && !flags.quant_type.empty())
    problems.add({.what = "both a recipe and a quantization type are given",
                  .where = "--config-path, --quant-type",
                  .fix = "give one of them"});
  if (!flags.trust_remote_code.empty() && flags.trust_remote_code != "True" &&
      flags.trust_remote_code != "False")
    problems.add({.what = "\"" + flags.trust_remote_code + "\" is neither True nor False",
                  .where = "--trust-remote-code",
                  .fix = "leave it out: laos never runs code from a checkpoint"});
  const auto num_profiles =
      std::count(std::begin(flags.chosen_profiles), std::end(flags.chosen_profiles), true);
  if (num_profiles > 1 || (num_profiles == 1 && !flags.config_path.empty()))
    problems.add({.what = profile_flags("and") + " and --config-path each choose the recipe",
                  .where = "command line",
                  .fix = "give one of them"});
  flags.budget.check(problems);
  if (flags.budget.count() > 0 && !flags.is_auto())
    problems.add({.what = "a budget is given, and nothing is chosen within it",
                  .where = "command line",
                  .fix = "add --auto, or write a recipe with laos analyze"});
  if (flags.is_auto() && hf::data_source_of(flags.data.dataset).is_stdin())
    problems.add({.what = "the dataset is read twice, and standard input can be read once",
                  .where = "--dataset",
                  .fix = "write the data to a file"});
  if (flags.online_columns && (num_profiles > 0 || flags.online || !flags.config_path.empty()))
    problems.add({.what = "--online-columns is a recipe of its own",
                  .where = "command line",
                  .fix = "leave out --online, --config-path and all other profiles"});
  else if (flags.online && (flags.is_auto() || !flags.config_path.empty()))
    problems.add({.what = "--online is not for --" + std::string(kAutoProfile) +
                          " nor --config-path, which say what is transformed themselves",
                  .where = "command line",
                  .fix = "leave it out; a recipe's own processor is `{type: flatquant}`"});
  check_preset(flags, problems);
  if (flags.print_recipe && flags.is_auto())
    problems.add({.what = "--auto writes its recipe when it has measured",
                  .where = "--print-recipe",
                  .fix = "use laos analyze"});
  if (std::set(flags.formats.begin(), flags.formats.end()).size() != flags.formats.size())
    problems.add({.what = "a format is named twice", .where = "--format", .fix = "name each once"});
  if (flags.save_path.empty() && !flags.print_recipe)
    problems.add({.what = "it is not said where to write",
                  .where = "--save-path",
                  .fix = "add --save-path DIR"});
  problems.throw_if_any(ErrorCode::kUsage);

  options.model_path = flags.model_path;
  options.save_path = flags.save_path;
  std::string profile = flags.profile();
  if (flags.online) profile = (profile.empty() ? "fast" : profile) + " --online";
  if (flags.online_columns) profile = "online-columns";
  if (flags.no_clip) options.clip = false;
  options.tp = flags.tp;
  options.model_type = flags.model_type;
  options.formats = flags.formats;
  options.int8_cache = !flags.kv_cache.empty();
  if (!flags.preset.scheme.empty())
    make_preset(flags, options);
  else if (flags.config_path.empty())
    choose_recipe(flags, profile, options);
  else
    options.recipe_path = flags.config_path;
  if (!flags.preset.scheme.empty() || !flags.config_path.empty()) warn_of_wrong_model_type(flags);
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

double seconds_per_flop(const pipeline::Estimate& estimate) {
  return (estimate.seconds - estimate.health_seconds) / std::max(1.0, estimate.flops);
}

pipeline::Division divided(const pipeline::Plan& plan, const pipeline::PlanCosts& costs,
                           int num_ranks) {
  return pipeline::divide(plan, costs, std::vector<bool>(costs.layers.size(), false), num_ranks);
}

// Who does what, and what it costs, when the job is shared.
void print_ranks(const pipeline::Plan& plan, int num_ranks, const pipeline::Estimate& estimate) {
  const auto duration_of = [&](double flops) {
    return rough_duration_text(flops * seconds_per_flop(estimate));
  };
  const pipeline::PlanCosts costs = pipeline::costs_of(plan);
  const pipeline::Division division = divided(plan, costs, num_ranks);
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
  return "calibration data: the set that comes with laos (" +
         std::to_string(plan.calibration()->size() + plan.held_back->size()) +
         " samples); your own text is better: --dataset";
}

// "32 of 512 tokens, no prompts continued"; "" of a whole check.
std::string short_check_text(const pipeline::HealthSize& size) {
  const pipeline::HealthSize whole;
  std::string text;
  if (size.tokens() < whole.tokens())
    text = std::to_string(size.tokens()) + " of " + std::to_string(whole.tokens()) + " tokens";
  if (size.passes == 0) text += (text.empty() ? "" : ", ") + std::string("no prompts continued");
  return text;
}

// A layer's routed experts as one line where all are to become the same.
std::vector<pipeline::PlannedLinear> with_experts_as_one(const pipeline::Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  std::vector<pipeline::PlannedLinear> lines;
  for (auto linear = plan.linears.begin(); linear != plan.linears.end();) {
    const auto end = std::find_if(linear, plan.linears.end(), [&](const auto& other) {
      return other.layer_idx != linear->layer_idx || !hf::is_routed(config, other.linear);
    });
    const bool is_one =
        end - linear > 1 && std::all_of(linear, end, [&](const auto& other) {
          return other.label == linear->label && other.decided_by == linear->decided_by;
        });
    lines.push_back(*linear);
    if (is_one) {
      std::string& name = lines.back().name;  // "model.layers.3.mlp.experts.0.gate_proj"
      name.replace(name.rfind('.', name.rfind('.') - 1), std::string::npos, ".*");
    }
    linear = is_one ? end : std::next(linear);
  }
  return lines;
}

void print_plan(const pipeline::Plan& plan, const pipeline::Estimate& estimate) {
  const hf::Config& config = plan.checkpoint.config();
  size_t width = 0, label_width = 0;
  const std::vector<pipeline::PlannedLinear> linears = with_experts_as_one(plan);
  for (const pipeline::PlannedLinear& linear : linears) {
    width = std::max(width, linear.name.size());
    label_width = std::max(label_width, linear.label.size());
  }
  for (const pipeline::PlannedLinear& linear : linears) {
    std::printf("%-*s  %-*s  %s\n", static_cast<int>(width), linear.name.c_str(),
                static_cast<int>(label_width), linear.label.c_str(), linear.decided_by.c_str());
  }
  std::printf("\nrecipe    %s (%s)\n", plan.recipe.metadata.config_id.c_str(),
              plan.recipe.path.string().c_str());
  const WeightShares shares = weight_shares(plan);
  std::printf("weights   %.1f %% of the linear weights in integers, %.1f %% at 4 bits\n",
              100 * shares.quantized, 100 * shares.four_bit);
  if (const double share = pipeline::transform_share(plan); share > 0)
    std::printf("online    transforms add %.1f %% to the operations of the linears when served\n",
                100 * share);
  if (plan.recipe.kv_cache)
    std::printf("kv cache  int8, %s a token instead of %s\n",
                bytes_text(model::KvCache::values_per_token(config)).c_str(),
                bytes_text(2 * model::KvCache::values_per_token(config)).c_str());
  const auto counted = [](const pipeline::Samples& samples) {
    return std::to_string(samples.size()) + ", " +
           std::to_string(pipeline::lengths_of(samples).num_tokens()) + " tokens";
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
  if (!plan.job.others.empty())
    for (const save::CheckpointJob* job : save::all_jobs(plan.job))
      std::printf("%s %s in %s", job == &plan.job ? ":" : " and",
                  bytes_text(save::planned_bytes(*job)).c_str(), job->save_path.c_str());
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
  if (!plan.options.checks) return;
  if (const std::string part =
          short_check_text(pipeline::health_size(plan, pipeline::costs_of(plan)));
      !part.empty())
    std::printf("health    in part, for a tenth of the rest: %s; laos check runs it whole\n",
                part.c_str());
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

void print_rank_records(const std::vector<report::Rank>& ranks, std::FILE* out) {
  if (ranks.empty()) return;
  double busiest = 0, sum = 0, sent = 0;
  for (const report::Rank& rank : ranks) {
    const double busy = rank.seconds - rank.wait_seconds;
    busiest = std::max(busiest, busy);
    sum += busy;
    sent += static_cast<double>(rank.sent_bytes);
  }
  std::fprintf(out, "ranks     %zu; the busiest worked %.1f s, %.2f of the mean; %s sent\n",
               ranks.size(), busiest,
               sum > 0 ? busiest * static_cast<double>(ranks.size()) / sum : 1.0,
               bytes_text(sent).c_str());
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

// What --auto measured and chose.
struct AutoChoice {
  std::string recipe;  // its text
  double predicted_kl = 0;
};

// By all ranks; the choice is everybody's. `plan` is that of the recipe as it stands.
AutoChoice choose_widths(const QuantFlags& flags, const pipeline::Plan& plan) {
  pipeline::QuantOptions options = plan.options;
  options.writes = false;
  options.reads_dataset = true;
  pipeline::Plan analyzed = pipeline::make_plan(options);
  const pipeline::AnalyzeOptions what = {.kl = true};
  pipeline::Analysis analysis = pipeline::begin_analysis(analyzed, what);
  std::FILE* out = flags.out();
  if (is_first_rank()) {
    std::fprintf(out, "%s\n", estimate_text(pipeline::estimate(analyzed, analysis, what)).c_str());
    std::fflush(out);
  }
  TerminalProgress progress(flags.progress, is_first_rank());
  const StopOnSignals stop_on_signals;
  try {
    pipeline::analyze(analyzed, what, analysis, progress, job());
  } catch (...) {
    progress.finish();
    throw;
  }
  progress.finish();
  AutoChoice choice;
  if (is_first_rank()) {
    const std::vector<bool> high = pipeline::choose_high(analysis, flags.budget.budget);
    choice.predicted_kl = pipeline::predicted_cost(analysis, high);
    choice.recipe = pipeline::recipe_with(analyzed, analysis, high,
                                          analyzed.recipe.metadata.config_id, options.recipe_path);
    std::fprintf(out, "%s", summary_of(analysis, high).c_str());
    std::fflush(out);
  }
  choice.recipe = job().broadcast(choice.recipe);
  return choice;
}

// Of a dry run with --auto.
pipeline::AnalysisEstimate estimate_analysis(const pipeline::Plan& plan) {
  pipeline::QuantOptions options = plan.options;
  options.writes = false;
  options.reads_dataset = true;
  pipeline::Plan analyzed = pipeline::make_plan(options);
  const pipeline::AnalyzeOptions what = {.kl = true};
  return pipeline::estimate(analyzed, pipeline::begin_analysis(analyzed, what), what);
}

// What a dry run says.
void tell_plan(const QuantFlags& flags, const pipeline::Plan& plan, int num_ranks) {
  const pipeline::Estimate estimate = pipeline::estimate(plan);
  std::optional<pipeline::AnalysisEstimate> analysis;
  if (flags.is_auto()) analysis = estimate_analysis(plan);
  if (flags.json) {
    Json json = plan_json(plan, estimate);
    if (analysis) json["analysis"] = analysis_json(*analysis);
    if (num_ranks > 1) {
      const pipeline::PlanCosts costs = pipeline::costs_of(plan);
      const pipeline::Division division = divided(plan, costs, num_ranks);
      json["ranks"] =
          ranks_json(division, pipeline::price(plan, costs, division), seconds_per_flop(estimate));
    }
    std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
    return;
  }
  print_plan(plan, estimate);
  if (analysis)
    std::printf("%s, comes first: widths above are the recipe's, not those it will choose\n",
                estimate_text(*analysis).c_str());
  for (const Problem& refusal : plan.refusals)
    std::printf("refused   %s\n  at:  %s\n  fix: %s\n", refusal.what.c_str(), refusal.where.c_str(),
                refusal.fix.c_str());
  if (num_ranks > 1) print_ranks(plan, num_ranks, estimate);
}

// The choice was made on the sum of single groups; this is how the whole came out.
void print_prediction(const QuantFlags& flags, double predicted, const report::Health& health) {
  std::FILE* out = flags.out();
  const eval::Health& h = health.figures;
  std::fprintf(out, "auto      KL predicted %.4f, measured %.4f ± %.4f on %lld tokens\n", predicted,
               h.kl_mean, h.kl_stderr, static_cast<long long>(h.num_tokens));
  if (const auto& most = flags.budget.budget.max_kl; most && !(h.kl_mean <= *most))
    std::fprintf(out, "auto      the budget of --max-kl %g is not kept: give a smaller one\n",
                 *most);
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
  if (flags.print_recipe) {
    if (is_first) std::printf("%s", pipeline::recipe_of(options).yaml.c_str());
    return;
  }
  // What is wrong is found by the first; the others need not look at the output.
  if (!is_first) ranks.barrier();
  options.writes = is_first;
  pipeline::Plan plan = pipeline::make_plan(options);
  if (is_first) {
    print_warnings(plan.warnings);
    ranks.barrier();
  }
  pipeline::agree_on_plan(plan, ranks);
  std::optional<AutoChoice> choice;
  if (flags.is_auto() && !flags.dry_run) {
    choice = choose_widths(flags, plan);
    options.recipe_text = choice->recipe;
    plan = pipeline::make_plan(options);
    pipeline::agree_on_plan(plan, ranks);
  }
  if (flags.dry_run) {
    if (!is_first) return;
    tell_plan(flags, plan, flags.ranks > 0 ? flags.ranks : ranks.size());
    exit_code = plan.refusals.empty() ? kDone : kFailed;
    return;
  }
  std::FILE* out = flags.out();
  if (is_first && plan.is_default_dataset) {
    std::fprintf(out, "%s\n", default_dataset_text(plan).c_str());
    std::fflush(out);
  }
  const std::optional<pipeline::HealthText> health_text =
      is_first ? health_text_of(flags, plan) : std::nullopt;
  TerminalProgress progress(flags.progress, is_first,
                            pipeline::part_costs(plan, pipeline::costs_of(plan)));
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
      std::fprintf(out, "rotation  plain Hadamard: no fitted step was better\n");
    else
      std::fprintf(
          out, "rotation  step %lld: activation error %+.1f %% against the plain Hadamard matrix\n",
          static_cast<long long>(fit.best_step), 100 * (kept->loss / plain - 1));
  }
  const std::vector<const save::CheckpointJob*> jobs = save::all_jobs(plan.job);
  for (const save::CheckpointJob* job : jobs) {
    std::fprintf(out, "saved     %s\n", job->save_path.c_str());
    std::fprintf(out, "size      %s\n", bytes_text(save::planned_bytes(*job)).c_str());
  }
  std::fprintf(out, "time      %.1f s (rotation %.1f, layers %.1f, save %.1f)\n", seconds,
               result.fit_seconds, result.quantize_seconds, result.save_seconds);
  print_rank_records(result.ranks, out);
  std::fprintf(out, "peak RSS  %s\n", bytes_text(peak_rss_bytes()).c_str());

  report::RunRecord record = pipeline::record_of(plan, result, LAOS_VERSION, seconds);
  const auto write_record = [&] {
    for (const save::CheckpointJob* job : jobs) {
      report::RunRecord own = record;
      own.checkpoint_bytes = save::planned_bytes(*job);
      report::write_run(job->save_path, own);
    }
  };
  write_record();  // stays whatever the check does
  for (const save::CheckpointJob* job : jobs)
    std::fprintf(out, "report    %s\n", (job->save_path / report::kPageFile).c_str());
  const auto print_record = [&] {
    if (flags.timing) print_timing(record, out);
    if (flags.json) std::fputs(report::to_json(record).c_str(), stdout);
  };
  if (!health_text) return print_record();
  std::fprintf(out, "checking  %s beside the float model\n",
               jobs.size() == 1 ? "the saved checkpoint" : plan.job.save_path.c_str());
  std::fflush(out);  // all that was written is there, whatever comes of the check
  record.health = run_health_check(plan.job.save_path, plan.options.model_path, *health_text,
                                   progress, result.rotation);
  record.timings.total = watch();
  record.timings.health = record.timings.total - seconds;
  record.peak_rss_bytes = peak_rss_bytes();
  write_record();
  print_health(*record.health, out);
  if (const std::string part = short_check_text(health_text->size); !part.empty())
    std::fprintf(
        out,
        "          in part, for a tenth of the rest: %s; all of it: laos check %s --baseline %s\n",
        part.c_str(), plan.job.save_path.c_str(), plan.options.model_path.string().c_str());
  if (choice) print_prediction(flags, choice->predicted_kl, *record.health);
  print_verdict(*record.health, out);
  print_record();
  exit_code = exit_code_of(*record.health, flags.verdict);
}

void add_preset_options(CLI::App& command, QuantFlags& flags) {
  recipe::Preset& preset = flags.preset;
  const std::string schemes = listed(recipe::preset_schemes());
  command
      .add_option("--scheme", preset.scheme,
                  "instead of a recipe: one scheme for every linear of the decoder layers, of " +
                      schemes + "; as " + kPresetFormat + " unless --format says otherwise")
      ->transform(CLI::IsMember(recipe::preset_schemes(), CLI::ignore_case))
      ->type_name("SCHEME");
  command
      .add_option(
          both_spellings("--group-size"), preset.group_size,
          "of --scheme: inputs that share a scale of a weight, 0 for all (default: of W4A16 "
          "128, or 64 or 32 where that divides all inputs, else 0)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
  command
      .add_option("--ignore", preset.ignore,
                  "of --scheme: linears that stay float, as \"lm_head,re:.*mlp.*\"")
      ->delimiter(',');
  command
      .add_option("--method", preset.method,
                  "of --scheme: " + listed(recipe::preset_methods(), "or") +
                      ", which rounds to nearest (default: " + recipe::preset_methods().front() +
                      ")")
      ->check(CLI::IsMember(recipe::preset_methods()))
      ->type_name("METHOD");
  command
      .add_option("--iters", preset.iters, "of --method autoround: steps a layer (default: 400)")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}));
  CLI::Option* rotates = command.add_flag_callback(
      "--rotate", [&preset] { preset.rotates = true; }, "of --scheme: rotate weights first");
  command
      .add_flag_callback(
          both_spellings("--no-rotate"), [&preset] { preset.rotates = false; },
          "of --scheme: do not (default: rotated, unless weights alone are rounded or trained)")
      ->excludes(rotates);
  command.add_flag(both_spellings("--print-recipe"), flags.print_recipe,
                   "print the recipe, and stop");
}

}  // namespace

void add_quant_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<QuantFlags>();
  CLI::App* command = app.add_subcommand("quant", "Quantize a Hugging Face checkpoint by a recipe");
  const auto begin_group = [command](const char* name) { command->option_defaults()->group(name); };
  command
      ->add_option(both_spellings("--model-path"), flags->model_path,
                   "Hugging Face checkpoint directory")
      ->required();
  command->add_option(both_spellings("--save-path"), flags->save_path,
                      "directory to write; required but for --print-recipe");
  std::vector<std::string> formats;
  for (const save::Format* format : save::formats()) formats.emplace_back(format->name());
  command
      ->add_option("--format", flags->formats,
                   "of the checkpoint, instead of the recipe's savers: ascendv1 for NPUs, "
                   "compressed-tensors for transformers and vLLM, gptq for what knows only that; "
                   "several with commas between: each in save_path/FORMAT")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember(formats));
  command->add_flag(both_spellings("--dry-run"), flags->dry_run,
                    "print the plan and what it will cost, and stop");
  command->add_flag("--restart", flags->restart,
                    "begin again where an interrupted run would be gone on with");
  command->add_option("--seed", flags->seed, "of the samples that --nsamples and training draw")
      ->capture_default_str();
  command->add_flag("--timing", flags->timing,
                    "when done, print where the time went, beside the rate of this machine's "
                    "products; run.json has it in any case");
  command->add_flag("--debug", flags->debug,
                    "also write save_path/debug_info/debug_info.json: losses of every step");

  begin_group("The recipe");
  command->add_option(both_spellings("--config-path"), flags->config_path,
                      "recipe: YAML of apiversion modelslim_v1");
  command
      ->add_option(both_spellings("--quant-type"), flags->quant_type,
                   "use the recipe of this type for this model, see laos recipes (default without "
                   "--config-path: w8a8; with " +
                       profile_flags("or") + ": w4a4)")
      ->check(CLI::IsMember(recipe::all_quant_types()));
  command->add_option(
      both_spellings("--model-type"), flags->model_type,
      "model name, as Qwen3-8B; chooses the recipe of --quant-type and names the exported one "
      "(default: what config.json says)");
  for (size_t i = 0; i < profiles().size(); ++i)
    command->add_flag("--" + profiles()[i].name, flags->chosen_profiles[i], profiles()[i].help);
  add_budget_options(*command, flags->budget);
  command->add_flag(
      "--online", flags->online,
      "with --fast, --balanced or --full: matrices that vLLM-Ascend multiplies inputs "
      "by at run time, and clipping: far more accurate; SGLang does not load it");
  command->add_flag(both_spellings("--online-columns"), flags->online_columns,
                    "the same for linears that read the residual stream alone, which serves every "
                    "tensor parallel size; all others W8A8");
  command
      ->add_option("--tp", flags->tp,
                   "of --online: the tensor parallel size to serve (default: 1); of several, as "
                   "1,2,4, it serves the first and laos convert --tp makes it serve another")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, scheme::kMaxTensorParallel));
  command->add_flag(both_spellings("--no-clip"), flags->no_clip,
                    "of --online: do not clip, for kernels that are not known to");
  command
      ->add_option(both_spellings("--kv-cache"), flags->kv_cache,
                   "attention's cache in integers, with scales fixed by the calibration data, as "
                   "vLLM-Ascend serves it: kv_cache of a recipe")
      ->check(CLI::IsMember({"int8"}));
  command
      ->add_option("--tag", flags->tag,
                   "scenario tags that a recipe's verified_tags must have, for --quant-type")
      ->expected(0, -1);
  command->add_option("--recipes", flags->recipes,
                      "directory of recipes that --quant-type asks before laos's own; "
                      "MSMODELSLIM_CUSTOM_PRACTICE_REPO names another");
  add_preset_options(*command, *flags);

  begin_group("Calibration data");
  add_dataset_options(*command, flags->data);
  command
      ->add_option(both_spellings("--hold-back"), flags->hold_back,
                   "calibration samples to keep for the health check alone (default: one in 64, 4 "
                   "at most)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));

  begin_group("The machine");
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
  command
      ->add_option("--ranks", flags->ranks,
                   "with --dry-run: also who does what among so many ranks (mpirun -n)")
      ->check(CLI::Range(1, 100000));
  command->add_flag(both_spellings("--local-model"), flags->local_model,
                    "under mpirun: --model-path is each machine's own copy of the model, not a "
                    "directory they share");
  command->add_option("--device", flags->device, "cpu")->capture_default_str();
  command->add_option(
      both_spellings("--trust-remote-code"), flags->trust_remote_code,
      "True or False; accepted for old command lines, laos never runs a checkpoint's code");

  begin_group("The health check");
  add_verdict_flags(*command, flags->verdict);
  command->add_flag(both_spellings("--no-health"), flags->no_health,
                    "do not check the finished checkpoint beside the float one");
  command->add_option(
      both_spellings("--health-text"), flags->health_text,
      "text to check on instead of the samples held back, in any form of --dataset");
  begin_group("Options");
  command->add_flag("--json", flags->json,
                    "print a JSON object: the plan of --dry-run, else what run.json holds");
  add_progress_option(*command, flags->progress);
  command->callback([flags, &exit_code] { run_quant(*flags, exit_code); });
}

}  // namespace laos::cli
