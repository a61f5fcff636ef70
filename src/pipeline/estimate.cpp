#include <algorithm>
#include <chrono>

#include "autoround/trainable_linears.h"
#include "core/threads.h"
#include "linalg/gemm.h"
#include "model/attention.h"
#include "model/pass_linears.h"
#include "pipeline/analyze.h"
#include "pipeline/division.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"
#include "rotation/fit.h"

namespace laos::pipeline {
namespace {

// The share of the GEMM rate that a run reaches: the work on elements grows with the width of rows,
// that of products with its square. docs/performance.md has what the widths were fitted to.
double share_of_rate(const hf::Config& config, double width) {
  return static_cast<double>(config.hidden_size) /
         (static_cast<double>(config.hidden_size) + width);
}
double training_efficiency(const hf::Config& config, linalg::ComputeType compute) {
  return share_of_rate(config, compute == linalg::ComputeType::kBf16 ? 850 : 80);
}
// Products in bf16 beside those in f32, where nothing was measured: AVX512-BF16 has 2, AMX 3 to 5.
constexpr double kBf16Speed = 3;
// Reading, rounding, checking and writing a weight, in operations of that rate; its part of the
// sums by which a model and what is made of it are known; and reading a weight of the health check.
constexpr double kOperationsPerWeight = 1500, kOperationsPerSummedWeight = 500,
                 kOperationsPerReadWeight = 75;

// Of a Hadamard transform, which is bound by memory: docs/performance.md has its times.
constexpr double kOperationsPerTransformedWeight = 60;

double head_weights(const hf::Config& config) {
  return static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
}

// Weights that a token passes through in a layer, and those of experts among them.
struct WeightsOfToken {
  double all = 0, experts = 0;
};
WeightsOfToken weights_of_token(const hf::Config& config, int64_t layer_idx) {
  WeightsOfToken sum;
  for (const model::Linear l : model::linears_in(config, layer_idx)) {
    const double weights =
        static_cast<double>(model::num_weights(config, l)) * hf::share_of_tokens(config, l);
    sum.all += weights;
    if (hf::expert_of(l) >= 0) sum.experts += weights;
  }
  return sum;
}

// Of a check of that size: the float layers once and the quantized ones twice, whose products in
// integers are cheaper, both heads, and the weights once more a pass over them.
double health_cost(const hf::Config& config, const PlanCosts& costs, const HealthSize& size) {
  const auto layers = static_cast<double>(config.num_hidden_layers), head = head_weights(config);
  const auto tokens = static_cast<double>(size.tokens());
  const double pairs = 0.5 * tokens * static_cast<double>(size.window_tokens + 1);
  const double read = kOperationsPerReadWeight * (costs.weights + head);
  return 2 * layers * costs.forward_of(size.tokens(), pairs) + 4 * tokens * head +
         2 * read * static_cast<double>(1 + size.passes);
}

}  // namespace

double efficiency(const hf::Config& config, double speed) {
  return share_of_rate(config, 350 * speed);
}

double gemm_gflops(linalg::ComputeType compute) {
  constexpr int64_t kSize = 1024;
  Mat<float> a(kSize, kSize), b(kSize, kSize), c(kSize, kSize);
  std::fill_n(a.data(), a.size(), 0.5f);
  std::fill_n(b.data(), b.size(), 0.25f);
  const bool is_bf16 = compute == linalg::ComputeType::kBf16;
  Mat<uint16_t> narrow_a(is_bf16 ? kSize : 0, kSize), narrow_b(narrow_a.rows(), kSize);
  if (is_bf16) {
    linalg::to_bf16(a.view(), narrow_a.view());
    linalg::to_bf16(b.view(), narrow_b.view());
  }
  constexpr double kSeconds = 0.25;  // long enough to see a shared machine at its best
  constexpr int kRuns = 4;           // at least: oneDNN makes its code in the first
  double best_seconds = 1e30, all_seconds = 0;
  for (int runs = 0; runs < kRuns || all_seconds < kSeconds; ++runs) {
    const auto start = std::chrono::steady_clock::now();
    if (is_bf16)
      linalg::gemm_bf16(linalg::Trans::kNo, linalg::Trans::kYes, std::as_const(narrow_a).view(),
                        std::as_const(narrow_b).view(), false, c.view());
    else
      linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f, std::as_const(a).view(),
                   std::as_const(b).view(), 0.0f, c.view());
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best_seconds = std::min(best_seconds, elapsed.count());
    all_seconds += elapsed.count();
  }
  return 2e-9 * kSize * kSize * kSize / best_seconds;
}

PlanCosts costs_of(const Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  const auto hidden_size = static_cast<double>(config.hidden_size);
  const double q_size = static_cast<double>(config.num_attention_heads * config.head_dim);
  PlanCosts costs;
  // One product a linear, and q kᵀ and p v.
  const auto layers = static_cast<double>(config.num_hidden_layers);
  double experts = 0;  // a token, in all layers
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const WeightsOfToken weights = weights_of_token(config, i);
    costs.per_token += 2 * weights.all / layers;
    experts += 2 * weights.experts;
    costs.weights += static_cast<double>(hf::num_weights(config, i));
  }
  costs.per_pair = 4 * q_size;
  for (const PlannedFit& fit : plan.fits) {
    const model::Ragged samples = lengths_of(*fit.samples);
    costs.fit_pass += layers * costs.forward_of(samples.num_tokens(), model::causal_pairs(samples));
    costs.fit_experts += experts * static_cast<double>(samples.num_tokens());
    const double flops = rotation::fit_flops(
        fit.options, rotation::num_fit_rows(config, fit.options, samples, fit.chunks),
        config.hidden_size);
    costs.fit += flops;
    if (fit.options.objective == rotation::FitObjective::kTokenRange) costs.fit_products += flops;
  }

  const model::Ragged samples = lengths_of(*plan.samples);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    LayerCost& cost = costs.layers.emplace_back();
    const auto params = static_cast<double>(hf::num_weights(config, i));
    const auto tokens = static_cast<double>(samples.num_tokens());
    const WeightsOfToken weights = weights_of_token(config, i);
    cost.pass = 2 * weights.all * tokens + costs.per_pair * model::causal_pairs(samples);
    cost.experts = 2 * weights.experts * tokens;
    if (const rotation::RotateOptions* rotate = plan.rotate())
      cost.rotate =
          params * (rotate->use_fitted ? 2 * hidden_size : kOperationsPerTransformedWeight);
    cost.steps = kOperationsPerWeight * params;
    cost.passed = plan.reads_activations_from(i + 1);
    for (const auto& step : plan.steps) {
      if (!step->reads(plan, i)) continue;
      if (step->reads_outputs())
        cost.passed = true;
      else
        ++cost.looks;
      cost.repeated += static_cast<double>(step->looks(plan, i) - 1);
      const StepCost own = step->cost(plan, i);
      cost.steps += own.flops;
      cost.trained += own.trained;
      cost.products += own.products;
    }
  }
  costs.save = 2 * kOperationsPerWeight * head_weights(config) +
               kOperationsPerSummedWeight * (costs.weights + 2 * head_weights(config));
  if (plan.options.checks) costs.health = health_cost(config, costs, health_size(plan, costs));
  return costs;
}

HealthSize health_size(const Plan& plan, const PlanCosts& costs) {
  const hf::Config& config = plan.checkpoint.config();
  const double most = std::max(kFreeHealthFlops, 0.1 * (costs.total() + costs.save));
  HealthSize size;
  const auto is_too_much = [&] { return health_cost(config, costs, size) > most; };
  while (size.passes > 0 && is_too_much()) --size.passes;
  while (size.window_tokens > kLeastHealthWindowTokens && is_too_much())
    size.window_tokens -= kLeastHealthWindowTokens / 2;
  while (size.windows > 1 && is_too_much()) --size.windows;
  return size;
}

int64_t scratch_bytes(const Plan& plan) {
  const auto bytes_of = [&](const Samples& samples) {
    return 4 * plan.checkpoint.config().hidden_size * lengths_of(samples).num_tokens();
  };
  int64_t most = 0;
  for (const PlannedFit& fit : plan.fits) most = std::max(most, bytes_of(*fit.samples));
  // A layer's inputs and outputs, and both once more where they are rotated after a step that reads
  // them as they were.
  if (!plan.reads_activations_from(0)) return most;
  int64_t copies = 2;
  bool was_read = false;
  StepFiles files;
  for (const auto& step : plan.steps) {
    if (step->rotates() != nullptr && was_read) copies = 4;
    for (int64_t i = 0; i < plan.checkpoint.config().num_hidden_layers; ++i) {
      if (!step->reads(plan, i)) continue;
      was_read = true;
      const StepFiles own = step->files(plan, i);
      files.states = std::max(files.states, own.states);
      files.bytes = std::max(files.bytes, own.bytes);
    }
  }
  return std::max(most, (copies + files.states) * bytes_of(*plan.samples) + files.bytes);
}

namespace {

// Of the linears of a layer, at the most.
struct LinearSizes {
  int64_t params = 0, largest = 0;  // weights
  int64_t widest = 0;               // features that one reads or writes
};
LinearSizes linear_sizes(const hf::Config& config) {
  LinearSizes sizes;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    int64_t params = 0;
    for (const model::Linear l : model::linears_in(config, i)) {
      const int64_t size = model::num_weights(config, l);
      params += size;
      sizes.largest = std::max(sizes.largest, size);
      sizes.widest =
          std::max({sizes.widest, model::in_features(config, l), model::out_features(config, l)});
    }
    for (const hf::Router router : hf::kAllRouters)
      params += hf::rows_of(config, i, router) * config.hidden_size;
    sizes.params = std::max(sizes.params, params);
  }
  return sizes;
}

constexpr int64_t kPackedBytes = int64_t{4} << 20;  // operands that oneDNN packs, of a thread

// Attention's and a tile of gradients, of every thread, and what is packed.
int64_t thread_bytes(const hf::Config& config, int64_t longest, bool with_backward) {
  return num_threads() *
         (model::attention_scratch_bytes(config, longest, with_backward) +
          4 * autoround::kGradientRows * linear_sizes(config).widest + kPackedBytes);
}

// At the most, while it is read.
int64_t tokenizer_bytes(const hf::Config& config) {
  constexpr int64_t kToken = 400;
  return kToken * config.vocab_size;
}

// Of eval::check_health beside the weights' files.
int64_t health_bytes(const Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  const LinearSizes sizes = linear_sizes(config);
  const HealthSize size = health_size(plan, costs_of(plan));
  const int64_t window = size.window_tokens, tokens = size.tokens(), row = 4 * config.hidden_size;
  // A layer in f32; seven kinds of rows, and what is quantized of a linear's, with its sums.
  const int64_t layer = 4 * sizes.params + 7 * tokens * row + 5 * tokens * sizes.widest +
                        model::LayerSaved<float>::size_bytes(config, tokens, false, window) +
                        thread_bytes(config, window, false);
  // Of both models: rows of the head, what it reads and what it makes of that.
  const int64_t head = 2 * (kHeadRows * row + 2 * tokens * row + 4 * tokens * kHeadRows) +
                       num_threads() * kPackedBytes;
  return tokenizer_bytes(config) + std::max(layer, head);
}

}  // namespace

int64_t peak_ram_bytes(const Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  const int64_t hidden_size = config.hidden_size, squared = hidden_size * hidden_size;
  const auto [params, largest, widest] = linear_sizes(config);
  const auto forward_bytes = [&](const model::Ragged& samples) {
    const int64_t longest = model::longest_sample(samples);
    return model::LayerSaved<float>::size_bytes(
               config, model::largest_piece(samples, kForwardTokens), false, longest) +
           4 * longest * config.head_dim + thread_bytes(config, longest, false) +
           4 * kForwardTokens * hidden_size +
           model::pass_linears_bytes(plan.options.compute, config,
                                     model::largest_piece(samples, kForwardTokens));
  };

  int64_t peak = 4 * params;  // reading and checking a layer
  for (const PlannedFit& fit : plan.fits) {
    const model::Ragged samples = lengths_of(*fit.samples);
    const int64_t rows = rotation::num_fit_rows(config, fit.options, samples, fit.chunks);
    const int64_t collected = 4 * rows * hidden_size;
    const int64_t fitted = rotation::fit_bytes(fit.options, rows, hidden_size);
    peak = std::max({peak, collected + 4 * params + forward_bytes(samples), fitted});
  }

  const model::Ragged samples = lengths_of(*plan.samples);
  const int64_t longest = model::longest_sample(samples);
  const LayerMemory memory = {
      .weights = 4 * params,
      .forward = forward_bytes(samples),
      .backward = thread_bytes(config, longest, true) + 4 * longest * config.head_dim};
  // A fitted rotation stays, and so does the matrix that is exported or checked with.
  int64_t rotation = 0;
  if (const rotation::RotateOptions* rotate = plan.rotate())
    rotation =
        4 * squared *
        ((plan.fits.empty() ? 0 : 1) + (rotate->export_extra_info || plan.options.checks ? 1 : 0));
  int64_t at_work = int64_t{4} * 1024 * widest;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    int64_t rounded = 0;  // bytes of codes, of linears that steps so far have quantized
    for (size_t step = 0; step < plan.steps.size(); ++step) {
      int64_t own = 0;  // weights that this step quantizes
      for (const model::Linear l : model::linears_in(config, i))
        if (const PlannedLinear& linear = plan.linear(i, l); linear.scheme && linear.step == step)
          own += model::num_weights(config, l);
      if (plan.steps[step]->reads(plan, i))
        at_work = std::max(at_work, rounded + plan.steps[step]->peak_memory(plan, i, memory));
      rounded += own;
    }
    at_work = std::max(at_work, 4 * params + rounded + 4 * largest);  // writing
  }
  const int64_t head = 8 * kHeadRows * hidden_size;
  peak = std::max({peak, rotation + at_work, rotation + head});
  if (plan.options.checks) peak = std::max(peak, rotation + health_bytes(plan));
  // The program, its libraries and what allocators keep of memory that was freed.
  constexpr int64_t kProgram = 24'000'000;
  return kProgram + std::max(peak, tokenizer_bytes(config));  // calibration texts are read first
}

double LayerCost::passes() const {
  // The first look of a layer's steps is the pass as well.
  return std::max(looks, passed ? 1.0 : 0.0) + repeated;
}

double LayerCost::total() const { return passes() * pass + rotate + steps; }

double LayerCost::in_dtype() const { return passes() * (pass - experts) + products; }

double PlanCosts::in_dtype() const {
  double flops = fit_pass - fit_experts + fit_products;
  for (const LayerCost& cost : layers) flops += cost.in_dtype();
  return flops;
}

double PlanCosts::total() const {
  double flops = fit_pass + fit;
  for (const LayerCost& cost : layers) flops += cost.total();
  return flops;
}

double PlanCosts::trained() const {
  double flops = 0;
  for (const LayerCost& cost : layers) flops += cost.trained;
  return flops;
}

std::vector<PartCost> part_costs(const Plan& plan, const PlanCosts& costs) {
  const hf::Config& config = plan.checkpoint.config();
  double layers = 0, narrow = 0;
  for (const LayerCost& layer : costs.layers) {
    layers += layer.total();
    narrow += layer.in_dtype();
  }
  const linalg::ComputeType compute = plan.options.compute;
  const double speed = compute == linalg::ComputeType::kBf16 ? kBf16Speed : 1;
  const double other = efficiency(config, speed), training = training_efficiency(config, compute);
  const auto in_f32 = [&](double flops, double share) {  // what takes as long
    return flops * efficiency(config) / (share * speed);
  };
  const double trained = costs.trained();
  return {{kCollectPart, costs.fit_experts + in_f32(costs.fit_pass - costs.fit_experts, other)},
          {kFitPart, costs.fit - costs.fit_products + in_f32(costs.fit_products, other)},
          {kQuantizePart,
           layers - narrow - trained + in_f32(narrow, other) + in_f32(trained, training)},
          {kSavePart, costs.save},
          {kHealthPart, costs.health}};
}

double seconds_of(const Plan& plan, const PlanCosts& costs, double gemm_gflops,
                  double train_gflops) {
  const double narrow = costs.in_dtype(), trained = costs.trained();
  const hf::Config& config = plan.checkpoint.config();
  return 1e-9 * ((costs.total() + costs.save + costs.health - narrow - trained) /
                     (efficiency(config) * gemm_gflops) +
                 narrow / (efficiency(config, train_gflops / gemm_gflops) * train_gflops) +
                 trained / (training_efficiency(config, plan.options.compute) * train_gflops));
}

Estimate estimate(const Plan& plan) {
  Estimate result;
  const PlanCosts costs = costs_of(plan);
  result.flops = costs.total();
  result.peak_ram_bytes = peak_ram_bytes(plan);
  for (const save::CheckpointJob* job : save::all_jobs(plan.job))
    result.disk_bytes += save::planned_bytes(*job);
  result.scratch_bytes = scratch_bytes(plan);
  result.gemm_gflops = gemm_gflops(linalg::ComputeType::kF32);
  const linalg::ComputeType compute = plan.options.compute;
  result.train_gflops =
      compute == linalg::ComputeType::kF32 ? result.gemm_gflops : gemm_gflops(compute);
  result.may_end_early = std::any_of(plan.steps.begin(), plan.steps.end(),
                                     [](const auto& step) { return step->may_end_early(); });
  result.seconds = seconds_of(plan, costs, result.gemm_gflops, result.train_gflops);
  result.health_seconds =
      1e-9 * costs.health / (efficiency(plan.checkpoint.config()) * result.gemm_gflops);
  return result;
}

// The windows pass through the float model, and each group's own from its layer on; then the head.
AnalysisEstimate estimate(const Plan& plan, const Analysis& analysis,
                          const AnalyzeOptions& options) {
  const hf::Config& config = plan.checkpoint.config();
  const PlanCosts costs = costs_of(plan);
  double steps = costs.fit_pass + costs.fit;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const LayerCost& layer = costs.layers[static_cast<size_t>(i)];
    double looks = 0;
    for (const auto& step : plan.steps) {
      if (step->reads_outputs() || !step->reads(plan, i)) continue;
      ++looks;
      steps += step->cost(plan, i).flops;
    }
    steps +=
        layer.rotate + layer.pass * std::max(looks, analysis_looks_from(plan, i + 1) ? 1.0 : 0.0);
  }
  const auto tokens = static_cast<double>(options.tokens);
  double passes = 7.0 * static_cast<double>(config.num_hidden_layers),
         candidates = 0;  // of a layer
  if (options.kl)
    for (const GroupCost& group : analysis.groups) {
      if (!group.is_candidate) continue;
      passes += static_cast<double>(config.num_hidden_layers - 1 - group.layer_idx);
      ++candidates;
    }
  // Exponentials cost about what the products do.
  const double head = 4 * tokens * head_weights(config) * candidates * 17 / 16;
  AnalysisEstimate result;
  result.flops = steps + costs.per_token * tokens * passes + head;
  result.seconds =
      1e-9 * result.flops / (efficiency(config) * gemm_gflops(linalg::ComputeType::kF32));
  const int64_t rows = 4 * config.hidden_size * options.tokens;
  const int64_t kept = scratch_bytes(plan) + static_cast<int64_t>(candidates) * rows;
  result.peak_ram_bytes =
      peak_ram_bytes(plan) + (plan.options.scratch_path.empty() ? kept : 0) + 24 * rows +
      model::LayerSaved<float>::size_bytes(config, options.tokens, false, options.tokens);
  result.scratch_bytes = kept;
  return result;
}

}  // namespace laos::pipeline
