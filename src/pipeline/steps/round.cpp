#include <algorithm>
#include <cmath>
#include <map>
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
  RoundStep(Planning planning, const std::optional<gptq::GptqOptions>& gptq)
      : Step(planning.plan.steps.size()), gptq_(gptq) {
    if (gptq_) gptq_->compute = planning.plan.options.compute;
  }

  bool reads(const Plan& plan, int64_t layer_idx) const override {
    const gptq::LayerScheme scheme = own_scheme(plan, layer_idx);
    return std::any_of(scheme.begin(), scheme.end(), [&](const auto& linear) {
      return linear && (solves(*linear) || linear->act.is_static);
    });
  }

  int64_t looks(const Plan& plan, int64_t layer_idx) const override {
    return std::max<int64_t>(
        1, std::ssize(parts_of(plan.checkpoint.config(), to_solve(plan, layer_idx))));
  }

  bool solves(const quant::LinearScheme& scheme) const noexcept override {
    return gptq_ && gptq_->solves(scheme.weight.bits);
  }

  bool adapt_to_tokens(int64_t num_tokens) noexcept override {
    if (!gptq_) return false;
    gptq_->refit_inputs = num_tokens / gptq::kEnoughForEachInput;
    return gptq_->refit != 0;
  }

  StepCost cost(const Plan& plan, int64_t layer_idx) const override {
    if (!gptq_) return {};
    // In parts, the products of all tokens are made in each; ranks divide the work by what does not
    // depend on their memory.
    const gptq::Cost cost = gptq::cost_of(plan.checkpoint.config(), to_solve(plan, layer_idx),
                                          *gptq_, lengths_of(*plan.samples).num_tokens(), 0, false);
    return {.flops = cost.flops, .products = cost.grams};
  }

  int64_t peak_memory(const Plan& plan, int64_t layer_idx,
                      const LayerMemory& memory) const override {
    const hf::Config& config = plan.checkpoint.config();
    const gptq::LayerScheme solved = to_solve(plan, layer_idx);
    const int64_t histograms = std::ssize(kept_histograms(own_scheme(plan, layer_idx))) *
                               model::RangeHistogram::size_bytes();
    int64_t most = memory.forward;
    for (const gptq::LayerScheme& part : parts_of(config, solved)) {
      const gptq::Cost cost = gptq::cost_of(
          config, part, *gptq_, 0, model::largest_piece(lengths_of(*plan.samples), kForwardTokens),
          transforms_inputs(plan, layer_idx));
      most = std::max({most, memory.forward + cost.observing, cost.solving});
    }
    return memory.weights + histograms + most;
  }

  void quantize(const Plan& plan, LayerWork& work) const override {
    const hf::Config& config = plan.checkpoint.config();
    QuantizedLayer& result = work.result;
    const gptq::LayerScheme scheme = own_scheme(plan, work.layer_idx),
                            solved = to_solve(plan, work.layer_idx);
    const bool is_static = std::ranges::any_of(
        scheme, [](const auto& linear) { return linear && linear->act.is_static; });
    model::ActivationStats stats(config, work.layer.online);
    for (const model::LinearGroup group : kept_histograms(scheme)) stats.keep_histogram(group);
    std::vector<gptq::LayerScheme> parts = parts_of(config, solved);
    if (parts.empty() && is_static) parts.emplace_back();  // a look all the same
    for (const gptq::LayerScheme& part : parts) {
      const bool is_first = &part == &parts.front();
      gptq::InputGrams grams(config, part, work.layer.online, gptq_.value_or(gptq::GptqOptions{}));
      work.look([&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
        if (is_first && is_static) stats.observe(batch, piece);
        grams.observe(piece, batch.num_tokens());
      });
      if (!gptq_) continue;
      count_tokens(config, grams, result.experts);
      auto codes = gptq::quantize_layer(config, work.layer.weights, part, *gptq_, std::move(grams),
                                        &result.refits);
      for (const Linear l : model::linears_in(config, work.layer_idx))
        if (part[l]) result.quantized[l] = std::move(codes[l]);
    }
    for (const Linear l : model::linears_in(config, work.layer_idx)) {
      if (!scheme[l]) continue;
      if (!solved[l])
        result.quantized[l] = quant::quantize_rtn(work.layer.weights[l].view(), scheme[l]->weight);
      const quant::ActSpec& act = scheme[l]->act;
      if (act.is_static) result.ranges[l] = range_of(stats[hf::group_of(l)], act, plan.float_dtype);
    }
  }

  // Experts are solved for in 2^level passes over the samples.
  void save_memory(int level) noexcept override { level_ = level; }

 private:
  // `solved` in the parts that are solved for one after the other; none where nothing is.
  std::vector<gptq::LayerScheme> parts_of(const hf::Config& config,
                                          const gptq::LayerScheme& solved) const {
    std::map<int64_t, gptq::LayerScheme> parts;
    const int64_t num_parts =
        std::min(std::max<int64_t>(config.num_experts, 1), int64_t{1} << level_);
    for (int64_t i = 0; i < solved.size(); ++i) {
      const auto l = static_cast<Linear>(i);
      if (!solved[l]) continue;
      // What is not of a routed expert comes with the first of them.
      const int64_t part =
          hf::is_routed(config, l) ? hf::expert_of(l) * num_parts / config.num_experts : 0;
      parts[part][l] = solved[l];
    }
    std::vector<gptq::LayerScheme> result;
    for (auto& [part, scheme] : parts) result.push_back(std::move(scheme));
    return result;
  }

  static void count_tokens(const hf::Config& config, const gptq::InputGrams& grams,
                           std::optional<ExpertTokens>& experts) {
    for (const gptq::InputGrams::Gram& gram : grams.all()) {
      if (!hf::is_routed(config, gram.group)) continue;
      if (!experts) experts.emplace().counts.resize(static_cast<size_t>(config.num_experts));
      experts->counts[static_cast<size_t>(hf::expert_of(gram.group))] = gram.num_tokens;
      experts->enough = std::max(experts->enough, gptq::kEnoughForEachInput * gram.hessian.rows());
    }
  }

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
  int level_ = 0;  // see save_memory
};

}  // namespace

std::unique_ptr<Step> plan_step(const recipe::LinearQuant& what, const recipe::Location&,
                                Planning planning) {
  return std::make_unique<RoundStep>(planning, what.gptq);
}

std::unique_ptr<Step> plan_step(const recipe::GptqQuant& what, const recipe::Location&,
                                Planning planning) {
  return std::make_unique<RoundStep>(planning, what.options);
}

}  // namespace laos::pipeline
