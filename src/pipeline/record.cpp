#include "pipeline/record.h"

#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <utility>

#include "core/isa.h"
#include "core/memory.h"
#include "core/threads.h"
#include "hf/dataset.h"
#include "hf/tokenizer.h"
#include "linalg/onednn.h"
#include "pipeline/division.h"
#include "pipeline/identity.h"
#include "pipeline/layer_steps.h"
#include "quant/weight_stats.h"

namespace laos::pipeline {
namespace {

// The first "model name" of /proc/cpuinfo, or the machine's architecture.
std::string processor_name(const utsname& system) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(':');
    if (colon != std::string::npos && colon + 2 <= line.size()) return line.substr(colon + 2);
  }
  return system.machine;
}

report::Environment environment() {
  utsname system{};
  uname(&system);
  report::Environment result;
  result.cpu = processor_name(system);
  result.instruction_set = active_isa_name();
  result.system = std::string(system.sysname) + " " + system.release + " " + system.machine;
  result.threads = num_threads();
  result.memory_bytes =
      static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  return result;
}

eval::Windows windows_of(const Samples& samples, const std::string& source,
                         const HealthSize& size) {
  eval::Windows windows = eval::cut_spread(samples, size.windows, size.window_tokens);
  if (windows.empty())
    throw Error(ErrorCode::kData, {.what = "no sample has two tokens, which a health check needs",
                                   .where = source,
                                   .fix = "check on a text with longer samples"});
  return windows;
}

// A model's vocabulary may be padded beyond its tokenizer's; such ids have no text.
std::string text_of(const hf::Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::string text;
  std::vector<int32_t> known;
  const auto flush = [&] {
    text += tokenizer.decode(known);
    known.clear();
  };
  for (const int32_t id : ids) {
    if (id < tokenizer.vocab_size()) {
      known.push_back(id);
      continue;
    }
    flush();
    text += "\uFFFD";
  }
  flush();
  return text;
}

std::vector<eval::Continuation> continuations(const eval::EvalModel& model,
                                              const eval::EvalModel& baseline, const HealthText& on,
                                              const hf::Tokenizer& tokenizer,
                                              const std::function<void()>& one_done) {
  std::vector<std::vector<int32_t>> prompts, drafts;
  for (const auto& [window, num_context] : on.windows) {
    if (std::ssize(prompts) == kContinued) break;
    const auto middle =
        window.begin() + std::min<std::ptrdiff_t>(kPromptTokens, std::ssize(window) - 1);
    prompts.emplace_back(window.begin(), middle);
    drafts.emplace_back(middle, window.end());
  }
  auto expected = eval::greedy_continuations(baseline, prompts, kContinuationTokens,
                                             std::move(drafts), on.size.passes);
  one_done();
  auto actual =
      eval::greedy_continuations(model, prompts, kContinuationTokens, expected, on.size.passes);
  one_done();
  std::vector<eval::Continuation> result;
  for (size_t i = 0; i < prompts.size(); ++i) {
    // The passes may end one before the other; a shorter text would look like another one.
    const size_t common = std::min(expected[i].size(), actual[i].size());
    expected[i].resize(common);
    actual[i].resize(common);
    result.push_back({text_of(tokenizer, prompts[i]), text_of(tokenizer, expected[i]),
                      text_of(tokenizer, actual[i])});
  }
  return result;
}

// What a part of the run multiplies, by the plan.
struct Products {
  double flops = 0;
  bool in_dtype = false;  // of the plan's products; else f32
};

Products products_of(const Plan& plan, const PlanCosts& costs, const std::string& part) {
  if (part == kFitPassTime) return {costs.fit_pass, true};
  if (part == kFitTime) return {costs.fit, costs.fit_products > 0};
  Products products;
  const auto sum = [&](const auto& flops_of_layer) {
    for (int64_t i = 0; i < std::ssize(costs.layers); ++i) products.flops += flops_of_layer(i);
  };
  const auto layer = [&](int64_t i) -> const LayerCost& {
    return costs.layers[static_cast<size_t>(i)];
  };
  if (part == kPassTime) {
    products.in_dtype = true;
    sum([&](int64_t i) { return layer(i).passes() * layer(i).pass; });
  } else if (part == kRotateTime && plan.rotate() != nullptr && plan.rotate()->use_fitted) {
    sum([&](int64_t i) { return layer(i).rotate; });
  }
  for (size_t s = 0; s < plan.steps.size(); ++s) {
    const bool is_step = part == plan.step_type(s);
    if (!is_step && part != inputs_time(plan.step_type(s))) continue;
    sum([&](int64_t i) {
      if (!plan.steps[s]->reads(plan, i)) return 0.0;
      const StepCost cost = plan.steps[s]->cost(plan, i);
      products.in_dtype = products.in_dtype || !is_step || cost.trained > 0;
      return is_step ? cost.flops - cost.products : cost.products;
    });
  }
  return products;
}

std::vector<report::TimedPart> timed_parts(const Plan& plan, const PlanCosts& costs,
                                           const RunResult& result) {
  std::vector<report::TimedPart> parts;
  // Of one process that did it all in one run.
  const bool is_counted = result.layers_kept == 0 && result.ranks.empty();
  for (const TimeSheet::Part& time : result.times) {
    report::TimedPart& part = parts.emplace_back();
    part.name = time.name;
    part.seconds = time.seconds;
    if (!is_counted) continue;
    const Products products = products_of(plan, costs, time.name);
    if (products.flops == 0) continue;
    part.flops = products.flops;
    part.dtype =
        linalg::to_string(products.in_dtype ? plan.options.compute : linalg::ComputeType::kF32);
  }
  return parts;
}

}  // namespace

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

report::Layer record_layer(const Plan& plan, int64_t layer_idx, const QuantizedLayer& quantized,
                           double seconds, TimeSheet* times) {
  const TimeSheet::Span timed(times, kStatisticsTime);
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  const model::LayerWeights& weights = quantized.layer.weights;
  report::Layer layer;
  for (const model::Linear l : model::linears_in(plan.checkpoint.config(), layer_idx)) {
    const PlannedLinear& planned = plan.linear(layer_idx, l);
    report::Linear& linear = layer.linears.emplace_back();
    linear.name = planned.name;
    linear.label = planned.label;
    linear.decided_by = planned.decided_by;
    linear.parameters = weights[l].size();
    linear.weight_error = linear.clipped = linear.range = kNaN;
    if (!planned.scheme) continue;
    linear.weight_bits = planned.scheme->weight.bits;
    linear.act_bits = planned.scheme->act.bits;
    if (hf::expert_of(l) < 0)
      linear.transform = quantized.layer.transforms[static_cast<size_t>(hf::group_of(l))];
    const quant::WeightStats stats = quant::weight_stats(weights[l].view(), quantized.quantized[l]);
    linear.refit_share = quantized.refits[l].share;
    linear.refit_damp = quantized.refits[l].damp;
    linear.weight_error = stats.error;
    linear.clipped = stats.clipped;
    linear.range = stats.range;
  }
  layer.training = quantized.trained;
  if (quantized.cache) {
    layer.key_error = quantized.cache->key_error;
    layer.value_error = quantized.cache->value_error;
  }
  if (quantized.experts) {
    layer.expert_tokens = quantized.experts->counts;
    layer.enough_expert_tokens = quantized.experts->enough;
  }
  layer.seconds = seconds;
  layer.peak_rss_bytes = peak_rss_bytes();
  return layer;
}

report::RunRecord record_of(const Plan& plan, const RunResult& result,
                            const std::string& laos_version, double seconds) {
  const hf::Config& config = plan.checkpoint.config();
  const PlanCosts costs = costs_of(plan);
  report::RunRecord record;
  record.laos_version = laos_version;
  record.libraries = linalg::library_versions();
  record.environment = environment();
  record.model = {.directory = plan.options.model_path.string(),
                  .type = plan.options.model_type,
                  .dtype = std::string(to_string(config.dtype)),
                  .num_layers = config.num_hidden_layers,
                  .hidden_size = config.hidden_size,
                  .intermediate_size = config.intermediate_size,
                  .vocab_size = config.vocab_size};
  record.recipe = {.config_id = plan.recipe.metadata.config_id,
                   .path = plan.recipe.path.string(),
                   .text = plan.recipe.yaml,
                   .dataset = plan.dataset_path.string(),
                   .num_samples = 0,
                   .num_tokens = 0,
                   .seed = plan.options.seed,
                   .flops = costs.total()};
  const Samples& samples = *plan.calibration();
  record.recipe.num_samples = std::ssize(samples);
  record.recipe.num_tokens = lengths_of(samples).num_tokens();
  record.warnings = plan.warnings;
  for (const rotation::FitResult& fit : result.fits) {
    report::Fit& entry = record.fits.emplace_back();
    entry.best_step = fit.best_step;
    entry.orthogonality = fit.orthogonality;
    for (const rotation::FitStep& step : fit.steps) {
      entry.steps.push_back(step.step);
      entry.losses.push_back(step.loss);
    }
  }
  record.layers = result.records;
  record.ranks = result.ranks;
  record.timings = {.total = seconds,
                    .fit = result.fit_seconds,
                    .layers = result.quantize_seconds,
                    .save = result.save_seconds,
                    .parts = timed_parts(plan, costs, result)};
  record.peak_rss_bytes = peak_rss_bytes();
  record.checkpoint_bytes = save::planned_bytes(plan.job);
  return record;
}

HealthText load_health_text(const std::filesystem::path& file, const std::filesystem::path& model,
                            const std::string& chat_format, const HealthSize& size, hf::Bos bos) {
  HealthText text{
      .source = file.string(), .calibrated = false, .windows = {}, .warnings = {}, .size = size};
  hf::Dataset read = hf::load_dataset(
      file, model, {.seq_len = size.tokens(), .chat_format = chat_format, .bos = bos});
  text.windows = windows_of(read.samples, text.source, size);
  text.warnings = std::move(read.warnings);
  return text;
}

bool is_calibrated_on(const Plan& plan, const HealthText& text) {
  const auto is_seen = [&](const eval::Window& window) {
    return std::any_of(
        plan.calibration()->begin(), plan.calibration()->end(), [&](const auto& sample) {
          return std::search(sample.begin(), sample.end(), window.ids.begin(), window.ids.end()) !=
                 sample.end();
        });
  };
  return std::any_of(text.windows.begin(), text.windows.end(), is_seen);
}

HealthText health_text(const Plan& plan) {
  const HealthSize size = health_size(plan, costs_of(plan));
  const bool calibrated = plan.held_back->empty();
  if (const Samples& samples = calibrated ? *plan.calibration() : *plan.held_back;
      !samples.empty()) {
    const std::string source = plan.dataset_path.string();
    return {.source = source,
            .calibrated = calibrated,
            .windows = windows_of(samples, source, size),
            .warnings = {},
            .size = size};
  }
  for (const std::filesystem::path& directory : plan.options.calib_directories)
    if (std::filesystem::exists(directory / "health.jsonl"))
      return load_health_text(directory / "health.jsonl", plan.options.model_path, "", size,
                              plan.options.bos);
  throw Error(ErrorCode::kData,
              {.what = "no text for the health check: the recipe calibrates on nothing, and laos's "
                       "own calib/health.jsonl is not installed",
               .where = plan.recipe.path.string(),
               .fix = "give one with --health-text, or do without by --no-health"});
}

report::Health check_checkpoint(const std::filesystem::path& directory,
                                const std::filesystem::path& baseline, const HealthText& text,
                                Progress& progress, const Mat<float>* rotation) {
  const std::unique_ptr<eval::EvalModel> model = eval::open_eval_model(directory),
                                         exact = eval::open_eval_model(baseline);
  int64_t done = eval::health_steps(model->config());
  progress.begin(kHealthPart, done + 2);
  report::Health health;
  health.source = text.source;
  health.calibrated = text.calibrated;
  Samples ids;
  for (const eval::Window& window : text.windows) ids.push_back(window.ids);
  health.tokens_sha256 = sha256_of(ids);
  health.figures = eval::check_health(directory, *model, *exact, text.windows, rotation,
                                      [&](int64_t step) { progress.step(step, ""); });
  const auto one_done = [&] { progress.step(++done, ""); };
  if (!std::isnan(health.figures.kl_mean) && text.size.passes > 0)
    health.figures.continuations =
        continuations(*model, *exact, text, hf::Tokenizer::load(baseline), one_done);
  else
    progress.step(done + 2, "");
  return health;
}

}  // namespace laos::pipeline
