#include <algorithm>
#include <cmath>
#include <utility>

#include "gptq/quantize_layer.h"
#include "pipeline/layer_steps.h"

namespace laos::pipeline {

using model::Linear;

namespace {

quant::StaticRange range_of(const model::ActivationStats::Group& stats, const quant::ActSpec& act,
                            DType dtype) {
  const auto count = static_cast<double>(stats.num_samples);
  if (act.range == quant::RangeFrom::kMean)
    return quant::static_range(static_cast<float>(stats.min_sum / count),
                               static_cast<float>(stats.max_sum / count), act, dtype);
  quant::StaticRange best = quant::static_range(stats.min, stats.max, act, dtype);
  if (act.range == quant::RangeFrom::kAll) return best;
  const auto error_of = [&](const quant::StaticRange& range) {
    return stats.histogram->squared_error(range.scale, -act.q_max() - 1 - range.offset,
                                          act.q_max() - range.offset);
  };
  double least = error_of(best);
  // Shares of the whole range in steps of an eighth of an octave, down to 2^-16 of it.
  for (int step = 1; step <= 128; ++step) {
    const float share = std::exp2(-static_cast<float>(step) / 8);
    const quant::StaticRange range =
        quant::static_range(stats.min * share, stats.max * share, act, dtype);
    if (const double error = error_of(range); error < least) {
      least = error;
      best = range;
    }
  }
  return best;
}

// linear_quant and gptq_quant: codes from the weights and from one look at the float layer's
// activations.
class RoundStep : public Step {
 public:
  // `gptq`: nullopt rounds to nearest.
  RoundStep(size_t index, const std::optional<gptq::GptqOptions>& gptq)
      : Step(index), gptq_(gptq) {}

  bool reads(const Plan& plan, int64_t layer_idx) const override {
    const gptq::LayerScheme scheme = own_scheme(plan, layer_idx);
    return std::any_of(scheme.begin(), scheme.end(), [&](const auto& linear) {
      return linear && (solves(*linear) || linear->act.is_static);
    });
  }

  bool solves(const quant::LinearScheme& scheme) const noexcept override {
    return gptq_ && gptq_->solves(scheme.weight.bits);
  }

  bool adapt_to_few_tokens() noexcept override {
    return gptq_ && std::exchange(gptq_->refit, false);
  }

  StepCost cost(const Plan& plan, int64_t layer_idx) const override {
    if (!gptq_) return {};
    return {.flops = gptq::cost_of(plan.checkpoint.config(), to_solve(plan, layer_idx), *gptq_,
                                   lengths_of(*plan.samples).num_tokens(), 0, false)
                         .flops};
  }

  int64_t peak_memory(const Plan& plan, int64_t layer_idx,
                      const LayerMemory& memory) const override {
    const hf::Config& config = plan.checkpoint.config();
    const gptq::LayerScheme solved = to_solve(plan, layer_idx);
    const int64_t histograms = std::ssize(kept_histograms(own_scheme(plan, layer_idx))) *
                               model::RangeHistogram::size_bytes();
    if (!gptq_ || std::none_of(solved.begin(), solved.end(), [](const auto& l) { return !!l; }))
      return memory.weights + memory.forward + histograms;
    const gptq::Cost cost = gptq::cost_of(
        config, solved, *gptq_, 0, model::largest_piece(lengths_of(*plan.samples), kForwardTokens),
        transforms_inputs(plan, layer_idx));
    return memory.weights + histograms + std::max(memory.forward + cost.observing, cost.solving);
  }

  void quantize(const Plan& plan, LayerWork& work) const override {
    const hf::Config& config = plan.checkpoint.config();
    QuantizedLayer& result = work.result;
    const gptq::LayerScheme scheme = own_scheme(plan, work.layer_idx),
                            solved = to_solve(plan, work.layer_idx);
    model::ActivationStats stats(config, work.layer.online);
    for (const model::LinearGroup group : kept_histograms(scheme)) stats.keep_histogram(group);
    std::optional<gptq::InputGrams> grams;
    if (gptq_) grams.emplace(config, solved, work.layer.online, gptq_->refit);
    if (reads(plan, work.layer_idx))
      work.look([&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
        stats.observe(batch, piece);
        if (grams) grams->observe(piece, batch.num_tokens());
      });
    if (grams) {
      auto codes =
          gptq::quantize_layer(config, work.layer.weights, solved, *gptq_, *std::move(grams));
      for (const model::Linear l : model::kAllLinears)
        if (solved[l]) result.quantized[l] = std::move(codes[l]);
    }
    for (const model::LinearGroup group : model::kAllLinearGroups)
      for (const Linear l : model::linears_of(group)) {
        if (!scheme[l]) continue;
        if (!solved[l])
          result.quantized[l] =
              quant::quantize_rtn(work.layer.weights[l].view(), scheme[l]->weight);
        const quant::ActSpec& act = scheme[l]->act;
        if (act.is_static) result.ranges[l] = range_of(stats[group], act, plan.float_dtype);
      }
  }

 private:
  static std::vector<model::LinearGroup> kept_histograms(const gptq::LayerScheme& scheme) {
    std::vector<model::LinearGroup> groups;
    for (const model::LinearGroup group : model::kAllLinearGroups) {
      const std::span<const Linear> linears = model::linears_of(group);
      if (std::any_of(linears.begin(), linears.end(), [&](Linear l) {
            return scheme[l] && scheme[l]->act.is_static &&
                   scheme[l]->act.range == quant::RangeFrom::kLeastError;
          }))
        groups.push_back(group);
    }
    return groups;
  }

  gptq::LayerScheme to_solve(const Plan& plan, int64_t layer_idx) const {
    return own_scheme(plan, layer_idx,
                      [&](const quant::LinearScheme& scheme) { return solves(scheme); });
  }

  std::optional<gptq::GptqOptions> gptq_;
};

}  // namespace

std::unique_ptr<Step> plan_step(const recipe::LinearQuant& what, const recipe::Location&,
                                Planning planning) {
  return std::make_unique<RoundStep>(planning.plan.steps.size(), what.gptq);
}

std::unique_ptr<Step> plan_step(const recipe::GptqQuant& what, const recipe::Location&,
                                Planning planning) {
  return std::make_unique<RoundStep>(planning.plan.steps.size(), what.options);
}

}  // namespace laos::pipeline
