#include <algorithm>
#include <chrono>

#include "autoround/trainable_linears.h"
#include "core/threads.h"
#include "linalg/gemm.h"
#include "model/attention.h"
#include "pipeline/division.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"
#include "rotation/fit.h"

namespace laos::pipeline {
namespace {

// GFLOP/s of a product large enough to run at full rate.
double measure_gemm_gflops(linalg::ComputeType compute) {
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
  double best_seconds = 1e30, all_seconds = 0;
  while (all_seconds < kSeconds) {
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

// The share of the GEMM rate that a run reaches: the work on elements grows with the width of rows,
// that of products with its square. docs/performance.md has what these were fitted to.
double efficiency(const hf::Config& config, linalg::ComputeType compute) {
  const double width = compute == linalg::ComputeType::kBf16 ? 850 : 80;
  return static_cast<double>(config.hidden_size) /
         (static_cast<double>(config.hidden_size) + width);
}
// Reading, rounding, checking and writing a weight, in operations of that rate; and reading alone.
constexpr double kOperationsPerWeight = 100, kOperationsPerReadWeight = 20;

double head_weights(const hf::Config& config) {
  return static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
}

// Of a check of that size: the float layers once and the quantized ones twice, both heads, and the
// weights once more a pass over them.
double health_cost(const hf::Config& config, const PlanCosts& costs, const HealthSize& size) {
  const auto layers = static_cast<double>(config.num_hidden_layers), head = head_weights(config);
  const auto tokens = static_cast<double>(kHealthWindows * size.window_tokens);
  const double pairs = 0.5 * tokens * static_cast<double>(size.window_tokens + 1);
  const double read = kOperationsPerReadWeight * (layers * costs.per_token / 2 + head);
  return 3 * layers * costs.forward_of(kHealthWindows * size.window_tokens, pairs) +
         4 * tokens * head + 2 * read * static_cast<double>(1 + size.passes);
}

}  // namespace

PlanCosts costs_of(const Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  const auto hidden_size = static_cast<double>(config.hidden_size);
  const double q_size = static_cast<double>(config.num_attention_heads * config.head_dim);
  double params = 0;  // linear weights of a layer
  for (const model::Linear l : model::kAllLinears)
    params += static_cast<double>(model::num_weights(config, l));
  PlanCosts costs;
  // One product a linear, and q kᵀ and p v.
  costs.per_token = 2 * params;
  costs.per_pair = 4 * q_size;
  const auto layers = static_cast<double>(config.num_hidden_layers);
  for (const PlannedFit& fit : plan.fits) {
    const model::Ragged samples = lengths_of(*fit.samples);
    costs.fit_pass += layers * costs.forward_of(samples.num_tokens(), model::causal_pairs(samples));
    costs.fit += rotation::fit_flops(
        fit.options, rotation::num_fit_rows(config, fit.options, samples, fit.chunks),
        config.hidden_size);
  }

  const model::Ragged samples = lengths_of(*plan.samples);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    LayerCost& cost = costs.layers.emplace_back();
    cost.pass = costs.forward_of(samples.num_tokens(), model::causal_pairs(samples));
    cost.rotate = plan.rotate() != nullptr ? 2 * params * hidden_size : 0;
    cost.steps = kOperationsPerWeight * params;
    cost.passed = plan.reads_activations_from(i + 1);
    for (const auto& step : plan.steps) {
      if (!step->reads(plan, i)) continue;
      if (step->reads_outputs())
        cost.passed = true;
      else
        ++cost.looks;
      const StepCost own = step->cost(plan, i);
      cost.steps += own.flops;
      cost.trained += own.trained;
    }
  }
  costs.save = 2 * kOperationsPerWeight * head_weights(config);
  if (plan.options.checks) costs.health = health_cost(config, costs, health_size(plan, costs));
  return costs;
}

HealthSize health_size(const Plan& plan, const PlanCosts& costs) {
  const hf::Config& config = plan.checkpoint.config();
  const double most = 0.1 * (costs.total() + costs.save);
  HealthSize size;
  for (; size.passes > 1; --size.passes)
    if (health_cost(config, costs, size) <= most) return size;
  while (size.window_tokens > kHealthWindowTokens / 4 && health_cost(config, costs, size) > most)
    size.window_tokens -= kHealthWindowTokens / 8;
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

// Of the linears of a layer.
struct LinearSizes {
  int64_t params = 0, largest = 0;  // weights
  int64_t widest = 0;               // features that one reads or writes
};
LinearSizes linear_sizes(const hf::Config& config) {
  LinearSizes sizes;
  for (const model::Linear l : model::kAllLinears) {
    const int64_t size = model::num_weights(config, l);
    sizes.params += size;
    sizes.largest = std::max(sizes.largest, size);
    sizes.widest =
        std::max({sizes.widest, model::in_features(config, l), model::out_features(config, l)});
  }
  return sizes;
}

// Attention's and a tile of gradients, of every thread; oneDNN packs operands besides.
int64_t thread_bytes(const hf::Config& config, int64_t longest, bool with_backward) {
  return num_threads() *
         (model::attention_scratch_bytes(config, longest, with_backward) +
          4 * autoround::kGradientRows * linear_sizes(config).widest + (int64_t{4} << 20));
}

// Of eval::check_health beside the weights' files.
int64_t health_bytes(const Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  const LinearSizes sizes = linear_sizes(config);
  const int64_t window = health_size(plan, costs_of(plan)).window_tokens,
                tokens = kHealthWindows * window, row = 4 * config.hidden_size;
  // A layer in f32; seven kinds of rows, and what is quantized of a linear's, with its sums.
  const int64_t layer = 4 * sizes.params + 7 * tokens * row + 5 * tokens * sizes.widest +
                        model::LayerSaved<float>::size_bytes(config, tokens, false, window) +
                        thread_bytes(config, window, false);
  // Of both models: rows of the head, what it reads and what it makes of that.
  const int64_t head = 2 * (kHeadRows * row + 2 * tokens * row + 4 * tokens * kHeadRows);
  return std::max(layer, head);
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
           4 * kForwardTokens * hidden_size;
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
      for (const model::Linear l : model::kAllLinears)
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
  // The program, its libraries and, per token of the vocabulary, the tokenizer.
  constexpr int64_t kProgram = 20'000'000, kToken = 150;
  return kProgram + kToken * config.vocab_size + peak;
}

double LayerCost::total() const {
  // The first look of a layer's steps is the pass as well.
  return std::max(looks, passed ? 1.0 : 0.0) * pass + rotate + steps;
}

double PlanCosts::total() const {
  double flops = fit_pass + fit;
  for (const LayerCost& cost : layers) flops += cost.total();
  return flops;
}

std::vector<PartCost> part_costs(const Plan& plan, const PlanCosts& costs) {
  const hf::Config& config = plan.checkpoint.config();
  double layers = 0, trained = 0;
  for (const LayerCost& layer : costs.layers) {
    layers += layer.total();
    trained += layer.trained;
  }
  const double slower =
      efficiency(config, linalg::ComputeType::kF32) / efficiency(config, plan.options.compute);
  return {{kCollectPart, costs.fit_pass},
          {kFitPart, costs.fit},
          {kQuantizePart, layers - trained + trained * slower},
          {kSavePart, costs.save},
          {kHealthPart, costs.health}};
}

double seconds_of(const Plan& plan, const PlanCosts& costs, double gemm_gflops,
                  double train_gflops) {
  double trained = 0;
  for (const LayerCost& layer : costs.layers) trained += layer.trained;
  const hf::Config& config = plan.checkpoint.config();
  return 1e-9 * ((costs.total() + costs.save + costs.health - trained) /
                     (efficiency(config, linalg::ComputeType::kF32) * gemm_gflops) +
                 trained / (efficiency(config, plan.options.compute) * train_gflops));
}

Estimate estimate(const Plan& plan) {
  Estimate result;
  const PlanCosts costs = costs_of(plan);
  result.flops = costs.total();
  result.peak_ram_bytes = peak_ram_bytes(plan);
  result.disk_bytes = save::planned_bytes(plan.job);
  result.scratch_bytes = scratch_bytes(plan);
  result.gemm_gflops = measure_gemm_gflops(linalg::ComputeType::kF32);
  const linalg::ComputeType compute = plan.options.compute;
  result.train_gflops =
      compute == linalg::ComputeType::kF32 ? result.gemm_gflops : measure_gemm_gflops(compute);
  result.may_end_early = std::any_of(plan.steps.begin(), plan.steps.end(),
                                     [](const auto& step) { return step->may_end_early(); });
  result.seconds = seconds_of(plan, costs, result.gemm_gflops, result.train_gflops);
  result.health_seconds =
      1e-9 * costs.health /
      (efficiency(plan.checkpoint.config(), linalg::ComputeType::kF32) * result.gemm_gflops);
  return result;
}

}  // namespace laos::pipeline
