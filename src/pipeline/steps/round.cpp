#include <algorithm>
#include <utility>

#include "gptq/quantize_layer.h"
#include "pipeline/layer_steps.h"

namespace laos::pipeline {

using model::Linear;

namespace {

quant::StaticRange range_of(const model::ActivationStats::Group& stats, const quant::ActSpec& act,
                            DType dtype) {
  const auto count = static_cast<double>(stats.num_samples);
  const float min = act.mean_range ? static_cast<float>(stats.min_sum / count) : stats.min;
  const float max = act.mean_range ? static_cast<float>(stats.max_sum / count) : stats.max;
  return quant::static_range(min, max, act, dtype);
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
                                   lengths_of(*plan.samples).num_tokens())
                         .flops};
  }

  int64_t peak_memory(const Plan& plan, int64_t layer_idx,
                      const LayerMemory& memory) const override {
    const int64_t bytes =
        gptq_ ? gptq::cost_of(plan.checkpoint.config(), to_solve(plan, layer_idx), *gptq_, 0).bytes
              : 0;
    return memory.weights + memory.forward + bytes;
  }

  void quantize(const Plan& plan, LayerWork& work) const override {
    const hf::Config& config = plan.checkpoint.config();
    QuantizedLayer& result = work.result;
    const gptq::LayerScheme scheme = own_scheme(plan, work.layer_idx),
                            solved = to_solve(plan, work.layer_idx);
    model::ActivationStats stats(config, work.layer.online);
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
