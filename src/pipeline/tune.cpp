#include "pipeline/tune.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "core/memory.h"
#include "core/units.h"
#include "hf/dataset.h"
#include "io/safetensors.h"
#include "pipeline/division.h"
#include "pipeline/float_pass.h"
#include "pipeline/identity.h"
#include "save/convert.h"

namespace laos::pipeline {
namespace {

void require_float(const TuneOptions& options) {
  if (hf::format_of(options.baseline))
    throw Error(ErrorCode::kUsage, {.what = "the baseline is quantized",
                                    .where = options.baseline.string(),
                                    .fix = "name the float checkpoint that was quantized"});
}

void require_memory(int64_t needed) {
  if (const int64_t available = available_memory_bytes(needed); needed > available)
    throw Error(ErrorCode::kResource,
                {.what = "learning the scales takes " + bytes_text(needed) + " of memory, " +
                         bytes_text(available) + " are free",
                 .where = "memory",
                 .fix = "use shorter samples (--seqlen), fewer (--nsamples) or a smaller --batch"});
}

// Steps of the fit, of which one is kept at a time.
constexpr const char* kScalesPart = "scales";

save::WorkPlan work_of(const TunePlan& plan) {
  const tune::FitOptions& fit = plan.options.fit;
  save::WorkPlan work;
  work.restart = plan.options.restart;
  work.parts[kScalesPart] = 1;
  // Two of them for a moment.
  work.other_bytes = int64_t{2} * (4 * 4 * plan.num_scales + 4096);
  work.identity = program_identity();
  for (const auto& [what, directory] : {std::pair("quantized ", &plan.options.checkpoint),
                                        std::pair("float ", &plan.options.baseline)}) {
    Identity files;
    add_model_files(*directory, false, files);
    for (auto& [name, text] : files) work.identity[what + name] = std::move(text);
  }
  work.identity["calibration data"] = sha256_of(plan.samples);
  work.identity["compute dtype"] = linalg::to_string(fit.compute);
  work.identity["seed"] = std::to_string(fit.seed);
  work.identity["steps"] = std::to_string(fit.steps);
  work.identity["batch"] = std::to_string(fit.batch);
  work.identity["learning rate"] = std::to_string(fit.lr);
  return work;
}

}  // namespace

TunePlan plan_tune(const TuneOptions& options) {
  require_float(options);
  TunePlan plan;
  plan.options = options;
  plan.checkpoint = hf::open_quantized(options.checkpoint);
  plan.teacher = eval::open_eval_model(options.baseline);
  tune::require_tunable(*plan.checkpoint, plan.teacher->config());
  const bool is_default = !options.dataset;
  plan.dataset = is_default ? hf::default_dataset(options.calib_directories)
                            : hf::find_dataset(*options.dataset, {}, options.calib_directories);
  hf::Dataset read = hf::load_dataset(plan.dataset, options.baseline,
                                      {.seq_len = options.seq_len,
                                       .max_samples = options.nsamples,
                                       .seed = options.fit.seed,
                                       .chat_format = options.chat_format,
                                       .own_chat_format_only = is_default,
                                       .bos = options.bos});
  plan.samples = std::move(read.samples);
  plan.warnings = std::move(read.warnings);
  plan.num_tokens = lengths_of(plan.samples).num_tokens();
  const hf::Config& config = plan.checkpoint->config();
  plan.num_scales = tune::num_factors(*plan.checkpoint);
  plan.work = work_of(plan);
  save::Rescaling::check(options.checkpoint, options.save_path, plan.work);
  const tune::FitFlops flops = tune::fit_flops(config, plan.samples, options.fit);
  plan.flops = flops.teacher + flops.fit;
  const double rate = gemm_gflops(linalg::ComputeType::kF32),
               fit_rate = options.fit.compute == linalg::ComputeType::kF32
                              ? rate
                              : gemm_gflops(options.fit.compute);
  plan.seconds = 1e-9 * (flops.teacher / (efficiency(config) * rate) +
                         flops.fit / (efficiency(config, fit_rate / rate) * fit_rate));
  plan.memory_bytes = tune::fit_bytes(config, plan.samples, options.fit);
  require_memory(plan.memory_bytes);
  return plan;
}

namespace {

// Tells of each step and keeps some.
class Keeper : public tune::FitObserver {
 public:
  Keeper(save::WorkDirectory& work, Progress& progress) : work_(work), progress_(progress) {}

  // What an earlier run kept.
  std::optional<tune::FitState> earlier(int64_t num_scales) const {
    const std::vector<int64_t> kept = work_.finished(kScalesPart);
    if (kept.empty()) return std::nullopt;
    const std::string part = save::part_name(kScalesPart, kept.back());
    const io::TensorFiles files = io::TensorFiles::open_files({work_.file_of(part)});
    const nlohmann::json note = nlohmann::json::parse(*work_.find(part));
    tune::FitState state;
    state.step = kept.back();
    state.best_step = note.at("best_step");
    state.kl_before = note.at("kl_before");
    state.kl = note.at("kl");
    for (const auto& [name, values] : vectors_of(state)) {
      const TensorView& tensor = files.at(name);
      LAOS_ASSERT(tensor.dtype == DType::kF32 && tensor.shape == Shape{num_scales});
      values->resize(static_cast<size_t>(num_scales));
      to_f32(tensor, values->data());
    }
    return state;
  }

  bool step(const tune::FitStep& step) override {
    char text[48];
    std::snprintf(text, sizeof text, "kl %.4f%s", step.kl, step.is_held_back ? ", held back" : "");
    if (step.step > 0) progress_.step(step.step, text);
    is_stopped_ = progress_.stop();
    return !is_stopped_;
  }
  bool is_stopped() const noexcept { return is_stopped_; }

  void keep(const tune::FitState& state) override {
    const std::vector<int64_t> older = work_.finished(kScalesPart);
    const std::string part = save::part_name(kScalesPart, state.step);
    tune::FitState copy = state;
    std::vector<io::TensorSpec> specs;
    for (const auto& [name, values] : vectors_of(copy))
      specs.push_back({name, DType::kF32, {std::ssize(*values)}});
    io::ShardedWriter file = work_.create(part, specs);
    for (const auto& [name, values] : vectors_of(copy))
      file.write(name, std::as_bytes(std::span(*values)));
    work_.finish(
        part, std::move(file),
        nlohmann::json{
            {"best_step", state.best_step}, {"kl_before", state.kl_before}, {"kl", state.kl}}
            .dump());
    for (const int64_t i : older) work_.forget(save::part_name(kScalesPart, i));
  }

 private:
  static std::vector<std::pair<const char*, std::vector<float>*>> vectors_of(
      tune::FitState& state) {
    return {{"values", &state.values},
            {"best", &state.best},
            {"first", &state.first},
            {"second", &state.second}};
  }

  save::WorkDirectory& work_;
  Progress& progress_;
  bool is_stopped_ = false;
};

}  // namespace

tune::FitResult run_tune(const TunePlan& plan, Progress& progress) {
  const TuneOptions& options = plan.options;
  save::Rescaling rescaling(options.checkpoint, options.save_path, plan.work);
  progress.begin("tune scales", options.fit.steps);
  Keeper keeper(rescaling.work(), progress);
  const std::optional<tune::FitState> earlier = keeper.earlier(plan.num_scales);
  if (earlier) progress.kept(earlier->step);
  tune::FitResult result = tune::fit_scales(*plan.checkpoint, *plan.teacher, plan.samples,
                                            options.fit, keeper, earlier ? &*earlier : nullptr);
  if (keeper.is_stopped()) stop_if_asked(progress);
  if (result.best_step == 0) {
    rescaling.work().finish_all();
    return result;
  }
  const hf::Config& config = plan.checkpoint->config();
  save::RowFactors factors;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    for (const model::Linear l : model::linears_in(config, i)) {
      const std::vector<float>& logs = result.log_factors[static_cast<size_t>(i)][l];
      if (logs.empty()) continue;
      std::vector<float>& factor = factors[model::name_of(config, i, l)];
      for (const float value : logs) factor.push_back(std::exp(value));
    }
  rescaling.write(factors);
  return result;
}

}  // namespace laos::pipeline
