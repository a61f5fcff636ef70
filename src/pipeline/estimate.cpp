#include <algorithm>
#include <chrono>

#include "autoround/train_layer.h"
#include "linalg/gemm.h"
#include "pipeline/division.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"
#include "rotation/fit.h"
#include "rotation/token_range.h"

namespace laos::pipeline {
namespace {

double pairs_of(const model::Ragged& samples) {  // causal query-key pairs
  double pairs = 0;
  for (int64_t s = 0; s < samples.num_sequences(); ++s)
    pairs +=
        0.5 * static_cast<double>(samples.length(s)) * static_cast<double>(samples.length(s) + 1);
  return pairs;
}

// GFLOP/s of an f32 product large enough to run at full rate.
double measure_gemm_gflops() {
  constexpr int64_t kSize = 1024;
  Mat<float> a(kSize, kSize), b(kSize, kSize), c(kSize, kSize);
  std::fill_n(a.data(), a.size(), 0.5f);
  std::fill_n(b.data(), b.size(), 0.25f);
  double best_seconds = 1e30;
  for (int repeat = 0; repeat < 6; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f, std::as_const(a).view(),
                 std::as_const(b).view(), 0.0f, c.view());
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best_seconds = std::min(best_seconds, elapsed.count());
  }
  return 2e-9 * kSize * kSize * kSize / best_seconds;
}

// One layer's Gram matrices and solutions. Linears of a group that have one scheme share both.
// `bytes` grows to what the layer holds at once.
double gptq_flops(const Plan& plan, size_t step, int64_t layer_idx,
                  const gptq::GptqOptions& options, double tokens, double& bytes) {
  double flops = 0, held = 0;
  for (const model::LinearGroup group : model::kAllLinearGroups) {
    double in = 0, out = 0;
    for (const model::Linear l : model::linears_of(group)) {
      const PlannedLinear& linear = plan.linear(layer_idx, l);
      if (!linear.scheme || linear.step != step || !options.solves(linear.scheme->weight.bits))
        continue;
      in = static_cast<double>(model::in_features(plan.checkpoint.config(), l));
      out += static_cast<double>(model::out_features(plan.checkpoint.config(), l));
    }
    // A product of symmetric result is formed whole; a factor is a third of a cube, feedback half a
    // product; a round of refinement two passes over the codes and two products for the scales.
    const double solved = in * in * in / 3 + out * in * in;
    flops += 2 * tokens * in * in + solved;
    flops += 8 * static_cast<double>(options.refine) * out * in * in;
    if (options.refit) flops += 2 * tokens * in * in + solved + 3 * out * in * in;
    held += 4 * in * in * (options.refit ? 2 : 1);
    // A refit is solved in the memory of its cross products.
    bytes = std::max(bytes, held + 4 * ((options.refit ? 0 : in * in) + 3 * out * in));
  }
  return flops;
}

// Operations of training a layer, from products of its linears and attention over `tokens` and
// causal query-key `pairs`.
struct TrainCost {
  double forward_per_token = 0, backward_per_token = 0, before_per_token = 0;
  double forward_per_pair = 0, backward_per_pair = 0, before_per_pair = 0;

  double forward(double tokens, double pairs) const {
    return forward_per_token * tokens + forward_per_pair * pairs;
  }
  double backward(double tokens, double pairs) const {
    return backward_per_token * tokens + backward_per_pair * pairs;
  }
  double before(double tokens, double pairs) const {
    return before_per_token * tokens + before_per_pair * pairs;
  }
};

// Forward: one product a linear, and q kᵀ and p v. Backward: one product for the gradient of each
// trained weight and one for that of each linear's input but the first ones', five in attention.
// Where nothing of attention is trained it runs once, before, and is never differentiated.
TrainCost train_cost(const Plan& plan, size_t step, int64_t layer_idx) {
  const hf::Config& config = plan.checkpoint.config();
  const autoround::TrainOptions& options = std::get<TrainStep>(plan.steps[step]).options;
  const double q_size = static_cast<double>(config.num_attention_heads * config.head_dim);
  const auto is_trained = [&](model::Linear l) {
    const PlannedLinear& linear = plan.linear(layer_idx, l);
    return linear.scheme && linear.step == step && options.trains(linear.scheme->weight.bits);
  };
  const auto is_attention = [](model::LinearGroup group) {
    return group == model::LinearGroup::kQkv || group == model::LinearGroup::kO;
  };
  bool attention = false;
  for (const model::LinearGroup group : model::kAllLinearGroups)
    for (const model::Linear l : model::linears_of(group))
      attention = attention || (is_attention(group) && is_trained(l));
  TrainCost cost;
  for (const model::LinearGroup group : model::kAllLinearGroups) {
    const bool before = !attention && is_attention(group);
    const bool is_first =
        group == (attention ? model::LinearGroup::kQkv : model::LinearGroup::kGateUp);
    for (const model::Linear l : model::linears_of(group)) {
      const double product = 2 * static_cast<double>(model::out_features(config, l)) *
                             static_cast<double>(model::in_features(config, l));
      (before ? cost.before_per_token : cost.forward_per_token) += product;
      if (is_trained(l)) cost.backward_per_token += product;
      if (!before && !is_first) cost.backward_per_token += product;
    }
  }
  (attention ? cost.forward_per_pair : cost.before_per_pair) = 4 * q_size;
  cost.backward_per_pair = attention ? 10 * q_size : 0;
  return cost;
}

// The share of the GEMM rate that a whole run reaches; docs/accuracy.md has the measurement.
constexpr double kEfficiency = 0.6;
// Reading, rounding, checking and writing a weight, in operations of that rate.
constexpr double kOperationsPerWeight = 100;

}  // namespace

PlanCosts costs_of(const Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  const auto hidden_size = static_cast<double>(config.hidden_size);
  const double q_size = static_cast<double>(config.num_attention_heads * config.head_dim);
  double params = 0;  // linear weights of a layer
  for (const model::Linear l : model::kAllLinears)
    params += static_cast<double>(model::out_features(config, l)) *
              static_cast<double>(model::in_features(config, l));
  PlanCosts costs;
  // One product a linear, and q kᵀ and p v.
  costs.per_token = 2 * params;
  costs.per_pair = 4 * q_size;
  const auto layers = static_cast<double>(config.num_hidden_layers);
  for (const PlannedFit& fit : plan.fits) {
    const model::Ragged samples = lengths_of(*fit.samples);
    costs.fit_pass += layers * costs.forward_of(samples.num_tokens(), pairs_of(samples));
    const auto rows =
        static_cast<double>(rotation::num_fit_rows(config, fit.options, samples, fit.chunks));
    const double squared = hidden_size * hidden_size, cubed = squared * hidden_size;
    const auto steps = static_cast<double>(fit.options.steps);
    if (fit.options.objective == rotation::FitObjective::kTokenRange) {
      // A step: a batch rotated, its gradient, the turn, and two Newton-Schulz steps.
      const double batch = std::min<double>(rows, rotation::kRangeBatchRows);
      costs.fit += steps * (4 * batch * squared + 10 * cubed);
      costs.fit_bytes =
          std::max(costs.fit_bytes, 4 * ((1.5 * rows + 3 * batch) * hidden_size + 6 * squared));
    } else {
      // About 15 steps of 2 products make a polar factor.
      costs.fit += steps * (4 * rows * squared + 60 * cubed);
      costs.fit_bytes = std::max(costs.fit_bytes, 4 * (4 * rows * hidden_size + 8 * squared));
    }
  }

  const model::Ragged samples = lengths_of(*plan.samples);
  const auto tokens = static_cast<double>(samples.num_tokens());
  const auto count = std::max(1.0, static_cast<double>(samples.num_sequences()));
  const double drawn =
      std::min(8.0, count) / count;  // share of the set that an iteration draws, on average
  const double evaluated = 3 * std::min(32.0, count) / count;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    LayerCost& cost = costs.layers.emplace_back();
    cost.pass = costs.forward_of(samples.num_tokens(), pairs_of(samples));
    cost.rotate = plan.rotate() != nullptr ? 2 * params * hidden_size : 0;
    cost.steps = kOperationsPerWeight * params;
    cost.passed = plan.reads_activations_from(i + 1);
    for (size_t step = 0; step < plan.steps.size(); ++step) {
      if (!plan.reads_activations(step, i)) continue;
      const auto* train = std::get_if<TrainStep>(&plan.steps[step]);
      if (train == nullptr) {
        ++cost.looks;
        if (const auto* round = std::get_if<RoundStep>(&plan.steps[step]);
            round != nullptr && round->gptq)
          cost.steps += gptq_flops(plan, step, i, *round->gptq, tokens, costs.gram_bytes);
        continue;
      }
      cost.passed = true;
      const auto iters = static_cast<double>(train->options.iters);
      const TrainCost training = train_cost(plan, step, i);
      const double pairs = pairs_of(samples);
      cost.steps += training.before(tokens, pairs) +
                    (iters * drawn + evaluated) * training.forward(tokens, pairs) +
                    iters * drawn * training.backward(tokens, pairs);
      costs.batch_tokens = static_cast<double>(autoround::largest_batch(samples));
    }
  }
  return costs;
}

namespace {

// What a rank holds beside hidden states, at its peak.
double other_bytes(const Plan& plan, const PlanCosts& costs, double hidden_rows) {
  const hf::Config& config = plan.checkpoint.config();
  const double params = costs.per_token / 2;
  const auto hidden_size = static_cast<double>(config.hidden_size),
             intermediate_size = static_cast<double>(config.intermediate_size);
  const double q_size = static_cast<double>(config.num_attention_heads * config.head_dim);
  const double kv_size = static_cast<double>(config.num_key_value_heads * config.head_dim);
  const model::Ragged samples = lengths_of(*plan.samples);
  const double piece =
      std::min(hidden_rows, std::max<double>(static_cast<double>(kForwardTokens),
                                             static_cast<double>(model::longest_sample(samples))));
  const double saved_row = 4 * hidden_size + 5 * q_size + 5 * kv_size + 4 * intermediate_size;
  const double training =
      4 * (costs.batch_tokens * (saved_row + 6 * hidden_size) + 2 * params) + 2 * params;
  const double forward_pass = 4 * piece * saved_row;
  const double layer_weights =
      4 * params + 4 * params;  // at rest, and one linear's copies while it is rotated
  const double head = 4.0 * 2 * static_cast<double>(kHeadRows) * hidden_size;
  return 64e6 + std::max(costs.fit_bytes, layer_weights + head +
                                              std::max(training, forward_pass + costs.gram_bytes));
}

double most_rows(const Plan& plan) {
  double rows = 0;
  for (const PlannedFit& fit : plan.fits)
    rows = std::max(rows, static_cast<double>(lengths_of(*fit.samples).num_tokens()));
  if (plan.reads_activations_from(0))
    rows = std::max(rows, static_cast<double>(lengths_of(*plan.samples).num_tokens()));
  return rows;
}

}  // namespace

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
  for (size_t step = 0; step < plan.steps.size(); ++step) {
    if (std::holds_alternative<RotateStep>(plan.steps[step]) && was_read) copies = 4;
    for (int64_t i = 0; i < plan.checkpoint.config().num_hidden_layers; ++i)
      was_read = was_read || plan.reads_activations(step, i);
  }
  // What leaves attention, where that runs once.
  const auto runs_once = [&](size_t step) {
    for (int64_t i = 0; i < plan.checkpoint.config().num_hidden_layers; ++i)
      if (plan.reads_activations(step, i) && train_cost(plan, step, i).before_per_token > 0)
        return true;
    return false;
  };
  for (size_t step = 0; step < plan.steps.size(); ++step)
    if (std::holds_alternative<TrainStep>(plan.steps[step]) && runs_once(step)) {
      ++copies;
      break;
    }
  return std::max(most, copies * bytes_of(*plan.samples));
}

Estimate estimate(const Plan& plan) {
  const PlanCosts costs = costs_of(plan);
  Estimate result;
  result.flops = costs.fit_pass + costs.fit;
  for (const LayerCost& cost : costs.layers)
    // The first look of a layer's steps is the pass as well.
    result.flops +=
        std::max(cost.looks, cost.passed ? 1.0 : 0.0) * cost.pass + cost.rotate + cost.steps;
  const double rows = most_rows(plan);
  result.peak_ram_bytes = static_cast<int64_t>(
      other_bytes(plan, costs, rows) +
      4 * 2 * rows * static_cast<double>(plan.checkpoint.config().hidden_size));
  result.disk_bytes = save::planned_bytes(plan.job);
  result.scratch_bytes = scratch_bytes(plan);
  result.gemm_gflops = measure_gemm_gflops();
  result.seconds = seconds_of(result.flops, result.gemm_gflops);
  return result;
}

double seconds_of(double flops, double gemm_gflops) {
  return flops / (kEfficiency * 1e9 * gemm_gflops);
}

double rank_bytes(const Plan& plan, const PlanCosts& costs) {
  return other_bytes(plan, costs, most_rows(plan));
}

}  // namespace laos::pipeline
