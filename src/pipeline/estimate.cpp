#include <algorithm>
#include <chrono>

#include "autoround/train_layer.h"
#include "autoround/trainable_linears.h"
#include "core/threads.h"
#include "linalg/gemm.h"
#include "model/attention.h"
#include "pipeline/division.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"
#include "rotation/fit.h"
#include "rotation/head_fit.h"
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

int64_t num_weights(const hf::Config& config, model::Linear linear) {
  return model::out_features(config, linear) * model::in_features(config, linear);
}

// Whether a step trains a linear of a layer.
bool is_trained(const Plan& plan, size_t step, int64_t layer_idx, model::Linear l) {
  const auto* train = std::get_if<TrainStep>(&plan.steps[step]);
  const PlannedLinear& linear = plan.linear(layer_idx, l);
  return train != nullptr && linear.scheme && linear.step == step &&
         train->options.trains(linear.scheme->weight.bits);
}

struct GptqCost {
  double flops = 0, bytes = 0;  // bytes: held at once
};

// One layer's Gram matrices and solutions. Linears of a group that have one scheme share both.
GptqCost gptq_cost(const Plan& plan, size_t step, int64_t layer_idx,
                   const gptq::GptqOptions& options, double tokens) {
  GptqCost cost;
  double held = 0;
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
    cost.flops += 2 * tokens * in * in + solved;
    cost.flops += 8 * static_cast<double>(options.refine) * out * in * in;
    if (options.refit) cost.flops += 2 * tokens * in * in + solved + 3 * out * in * in;
    held += 4 * in * in * (options.refit ? 2 : 1);
    // A refit is solved in the memory of its cross products.
    cost.bytes = std::max(cost.bytes, held + 4 * ((options.refit ? 0 : in * in) + 3 * out * in));
  }
  return cost;
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
  const double q_size = static_cast<double>(config.num_attention_heads * config.head_dim);
  bool attention = false;
  for (const model::LinearGroup group : model::kAllLinearGroups)
    for (const model::Linear l : model::linears_of(group))
      attention = attention || (model::is_attention(group) && is_trained(plan, step, layer_idx, l));
  TrainCost cost;
  for (const model::LinearGroup group : model::kAllLinearGroups) {
    const bool before = !attention && model::is_attention(group);
    const bool is_first =
        group == (attention ? model::LinearGroup::kQkv : model::LinearGroup::kGateUp);
    for (const model::Linear l : model::linears_of(group)) {
      const double product = 2 * static_cast<double>(num_weights(config, l));
      (before ? cost.before_per_token : cost.forward_per_token) += product;
      if (is_trained(plan, step, layer_idx, l)) cost.backward_per_token += product;
      if (!before && !is_first) cost.backward_per_token += product;
    }
  }
  (attention ? cost.forward_per_pair : cost.before_per_pair) = 4 * q_size;
  cost.backward_per_pair = attention ? 10 * q_size : 0;
  return cost;
}

// The share of the GEMM rate that a run reaches: the work on elements grows with the width of rows,
// that of products with its square. docs/performance.md has what these were fitted to.
double efficiency(const hf::Config& config, linalg::ComputeType compute) {
  const double width = compute == linalg::ComputeType::kBf16 ? 850 : 80;
  return static_cast<double>(config.hidden_size) /
         (static_cast<double>(config.hidden_size) + width);
}
// Reading, rounding, checking and writing a weight, in operations of that rate.
constexpr double kOperationsPerWeight = 100;

}  // namespace

PlanCosts costs_of(const Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  const auto hidden_size = static_cast<double>(config.hidden_size);
  const double q_size = static_cast<double>(config.num_attention_heads * config.head_dim);
  double params = 0;  // linear weights of a layer
  for (const model::Linear l : model::kAllLinears)
    params += static_cast<double>(num_weights(config, l));
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
    } else {
      // About 15 steps of 2 products make a polar factor.
      costs.fit += steps * (4 * rows * squared + 60 * cubed);
    }
  }

  const model::Ragged samples = lengths_of(*plan.samples);
  const auto tokens = static_cast<double>(samples.num_tokens());
  const auto count = std::max(1.0, static_cast<double>(samples.num_sequences()));
  const double drawn =
      std::min(8.0, count) / count;  // share of the set that an iteration draws, on average
  const double measured = std::min(32.0, count) / count;
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
        if (const auto* heads = std::get_if<HeadStep>(&plan.steps[step])) {
          // A step: a batch of half the rows rotated, and its gradient.
          const double rows = std::min(tokens, static_cast<double>(rotation::kHeadFitRows));
          cost.steps += static_cast<double>(heads->options.steps) * 2 * rows * q_size *
                        static_cast<double>(config.head_dim);
        }
        if (const auto* round = std::get_if<RoundStep>(&plan.steps[step]);
            round != nullptr && round->gptq)
          cost.steps += gptq_cost(plan, step, i, *round->gptq, tokens).flops;
        continue;
      }
      cost.passed = true;
      const auto iters = static_cast<double>(train->options.iters);
      // Before, after and of the rule's choice; with until_flat after each of three rounds.
      const double evaluated = (train->options.until_flat ? 4 : 3) * measured;
      const TrainCost training = train_cost(plan, step, i);
      const double pairs = pairs_of(samples);
      const double trained =
          iters * drawn * (training.forward(tokens, pairs) + training.backward(tokens, pairs));
      cost.trained += trained;
      cost.steps +=
          trained + training.before(tokens, pairs) + evaluated * training.forward(tokens, pairs);
    }
  }
  return costs;
}

namespace {

// Weights of a layer that a step trains.
int64_t trained_weights(const Plan& plan, size_t step, int64_t layer_idx) {
  int64_t size = 0;
  for (const model::Linear l : model::kAllLinears)
    if (is_trained(plan, step, layer_idx, l)) size += num_weights(plan.checkpoint.config(), l);
  return size;
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
  // A layer's weights in f32 and two sets of codes, while it is trained.
  int64_t trained = 0;
  for (size_t step = 0; step < plan.steps.size(); ++step)
    for (int64_t i = 0; i < plan.checkpoint.config().num_hidden_layers; ++i)
      trained = std::max(trained, trained_weights(plan, step, i));
  return std::max(most, copies * bytes_of(*plan.samples) + trained * (4 + 2));
}

int64_t peak_ram_bytes(const Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  const int64_t hidden_size = config.hidden_size, squared = hidden_size * hidden_size;
  int64_t params = 0, largest = 0, widest = std::max(hidden_size, config.intermediate_size);
  for (const model::Linear l : model::kAllLinears) {
    const int64_t size = num_weights(config, l);
    params += size;
    largest = std::max(largest, size);
    widest = std::max(widest, model::in_features(config, l));
  }
  // Attention's and a tile of gradients, of every thread; oneDNN packs operands besides.
  const auto thread_bytes = [&](int64_t longest, bool with_backward) {
    return num_threads() * (model::attention_scratch_bytes(config, longest, with_backward) +
                            int64_t{4} * 128 * widest + (int64_t{4} << 20));
  };
  const auto forward_bytes = [&](const model::Ragged& samples) {
    const int64_t longest = model::longest_sample(samples);
    return model::LayerSaved<float>::size_bytes(
               config, model::largest_piece(samples, kForwardTokens), false, longest) +
           4 * longest * config.head_dim + thread_bytes(longest, false) +
           4 * kForwardTokens * hidden_size;
  };

  int64_t peak = 4 * params;  // reading and checking a layer
  for (const PlannedFit& fit : plan.fits) {
    const model::Ragged samples = lengths_of(*fit.samples);
    const int64_t rows = rotation::num_fit_rows(config, fit.options, samples, fit.chunks);
    const int64_t collected = 4 * rows * hidden_size;
    int64_t fitted = 0;
    if (fit.options.objective == rotation::FitObjective::kTokenRange) {
      const int64_t batch = std::min(rows, rotation::kRangeBatchRows);
      fitted = collected * 3 / 2 + 4 * (3 * batch * hidden_size + 6 * squared);
    } else {
      fitted = 4 * collected + 32 * squared;
    }
    peak = std::max({peak, collected + 4 * params + forward_bytes(samples), fitted});
  }

  const model::Ragged samples = lengths_of(*plan.samples);
  const int64_t longest = model::longest_sample(samples), batch = autoround::largest_batch(samples),
                forward = forward_bytes(samples);
  // The rotation stays, and a linear's rows are copied while they are rotated.
  const int64_t rotation = plan.rotate() == nullptr ? 0 : (plan.fits.empty() ? 0 : 4 * squared);
  int64_t at_work = int64_t{4} * 1024 * widest;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    int64_t rounded = 0;  // bytes of codes, of linears that steps so far have quantized
    for (size_t step = 0; step < plan.steps.size(); ++step) {
      int64_t own = 0;  // weights that this step quantizes
      for (const model::Linear l : model::kAllLinears)
        if (const PlannedLinear& linear = plan.linear(i, l); linear.scheme && linear.step == step)
          own += num_weights(config, l);
      if (plan.reads_activations(step, i)) {
        int64_t fit_bytes = 0;
        // Rows, those held back, and a batch of half of them with what it becomes.
        if (std::holds_alternative<HeadStep>(plan.steps[step]))
          fit_bytes = int64_t{4} * 3 * std::min(samples.num_tokens(), rotation::kHeadFitRows) *
                      config.num_attention_heads * config.head_dim;
        if (const auto* round = std::get_if<RoundStep>(&plan.steps[step]);
            round != nullptr && round->gptq)
          fit_bytes = static_cast<int64_t>(gptq_cost(plan, step, i, *round->gptq, 0).bytes);
        at_work = std::max(at_work, 4 * params + rounded + fit_bytes + forward);
        if (const auto* train = std::get_if<TrainStep>(&plan.steps[step])) {
          const bool is_bf16 = plan.options.compute == linalg::ComputeType::kBf16;
          const bool whole = batch <= train->options.max_whole_tokens;
          const int64_t piece = std::min(batch, model::kPieceTokens), rows = whole ? batch : piece;
          // Ŵ and offsets of what is trained, whose weights are in files; the other weights.
          const int64_t trained = trained_weights(plan, step, i);
          int64_t training = trained * ((is_bf16 ? 2 : 4) + 2) +
                             (params - trained) * (is_bf16 ? 6 : 4) + (whole ? 0 : 4 * trained);
          training += model::LayerSaved<float>::size_bytes(config, rows, true, whole ? 0 : longest);
          training += 4 * (piece + rows) * hidden_size;  // inputs, outputs
          if (is_bf16) training += 4 * rows * widest;
          if (!is_bf16 && whole) {
            int64_t block = 0;
            for (const model::Linear l : model::kAllLinears)
              if (is_trained(plan, step, i, l))
                block =
                    std::max(block, autoround::gradient_block_bytes(model::out_features(config, l),
                                                                    model::in_features(config, l)));
            training += block;
          }
          if (train->options.act_aware) training += 4 * rows * widest;
          if (plan.job.online) training += 4 * rows * widest;
          at_work = std::max(at_work, rounded + training + thread_bytes(longest, true) +
                                          4 * longest * config.head_dim);
          // Before and after: all weights once, with Ŵ or with codes.
          at_work = std::max(at_work, 4 * params + rounded + trained * ((is_bf16 ? 2 : 4) + 2));
        }
      }
      rounded += own;
    }
    at_work = std::max(at_work, 4 * params + rounded + 4 * largest);  // writing
  }
  const int64_t head = 8 * kHeadRows * hidden_size;
  peak = std::max({peak, rotation + at_work, rotation + head});
  // The program, its libraries and, per token of the vocabulary, the tokenizer.
  constexpr int64_t kProgram = 45'000'000, kToken = 150;
  return kProgram + kToken * config.vocab_size + peak;
}

double PlanCosts::total() const {
  double flops = fit_pass + fit;
  for (const LayerCost& cost : layers)
    // The first look of a layer's steps is the pass as well.
    flops += std::max(cost.looks, cost.passed ? 1.0 : 0.0) * cost.pass + cost.rotate + cost.steps;
  return flops;
}

double seconds_of(const Plan& plan, const PlanCosts& costs, double gemm_gflops,
                  double train_gflops) {
  double trained = 0;
  for (const LayerCost& layer : costs.layers) trained += layer.trained;
  const hf::Config& config = plan.checkpoint.config();
  return 1e-9 * ((costs.total() - trained) /
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
  result.seconds = seconds_of(plan, costs, result.gemm_gflops, result.train_gflops);
  return result;
}

}  // namespace laos::pipeline
