#include <algorithm>

#include "autoround/cost.h"
#include "autoround/train_layer.h"
#include "pipeline/layer_steps.h"

namespace laos::pipeline {

using model::Linear;

namespace {

// autoround_quant.
class TrainStep : public Step {
 public:
  TrainStep(size_t index, const autoround::TrainOptions& options)
      : Step(index), options_(options), max_whole_tokens_(options.max_whole_tokens) {}

  bool reads(const Plan& plan, int64_t layer_idx) const override {
    const autoround::LayerScheme scheme = own_scheme(plan, layer_idx);
    return std::any_of(scheme.begin(), scheme.end(), [&](const auto& linear) {
      return linear && (options_.trains(linear->weight.bits) || linear->act.is_static);
    });
  }
  bool reads_outputs() const noexcept override { return true; }
  std::vector<int64_t> samples(const Plan& plan, int64_t layer_idx) const override {
    return autoround::samples_seen(options_, std::ssize(*plan.samples), plan.options.seed,
                                   layer_idx);
  }

  StepCost cost(const Plan& plan, int64_t layer_idx) const override {
    const autoround::TrainCost cost =
        autoround::train_cost(plan.checkpoint.config(), trained_scheme(plan, layer_idx), options_,
                              lengths_of(*plan.samples), layer_idx);
    return {.flops = cost.flops, .trained = cost.iterations};
  }

  int64_t peak_memory(const Plan& plan, int64_t layer_idx,
                      const LayerMemory& memory) const override {
    const hf::Config& config = plan.checkpoint.config();
    const autoround::LayerScheme scheme = trained_scheme(plan, layer_idx);
    const int64_t training =
        autoround::train_bytes(config, scheme, options_, lengths_of(*plan.samples),
                               transforms_inputs(plan, layer_idx), layer_idx) +
        (options_.compute == linalg::ComputeType::kBf16 ? linalg::kBf16Bytes : 0);
    // Before and after training all weights are there once, with what is applied or with codes.
    return std::max({memory.weights + memory.forward, training + memory.backward,
                     memory.weights + autoround::applied_bytes(config, scheme, options_)});
  }

  StepFiles files(const Plan& plan, int64_t layer_idx) const override {
    const autoround::LayerScheme scheme = trained_scheme(plan, layer_idx);
    // What leaves attention, where that runs once.
    return {.states = reads(plan, layer_idx) && !autoround::trains_attention(scheme) ? 1 : 0,
            .bytes = autoround::aside_bytes(plan.checkpoint.config(), scheme)};
  }

  void quantize(const Plan& plan, LayerWork& work) const override {
    QuantizedLayer& result = work.result;
    model::LayerWeights& weights = work.layer.weights;
    const autoround::LayerScheme own = own_scheme(plan, work.layer_idx),
                                 scheme = trained_scheme(plan, work.layer_idx);
    autoround::ActBits untrained = {};
    // Linears that an earlier step quantized act as they are now, so that training makes up for it.
    model::PerLinear<Mat<float>> replaced;
    const hf::Config& config = plan.checkpoint.config();
    const std::vector<Linear> linears = model::linears_in(config, work.layer_idx);
    std::optional<autoround::TokenRoutes> routes;
    if (reads(plan, work.layer_idx)) {
      work.ensure_outputs();
      if (model::is_mixture(config, work.layer_idx))
        routes = autoround::routes_of(config, weights, work.layer.online, work.pass().rope(),
                                      work.inputs(), samples(plan, work.layer_idx));
    }
    for (const Linear l : linears) {
      if (scheme[l]) continue;
      if (own[l]) result.quantized[l] = quant::quantize_rtn(weights[l].view(), own[l]->weight);
      if (result.quantized[l].q.size() == 0) continue;
      const quant::ActSpec& act = plan.linear(work.layer_idx, l).scheme->act;
      untrained[l] = act.is_static || act.bits > 8 ? 0 : act.bits;
      replaced[l] = quant::dequantize(result.quantized[l]);
      std::swap(replaced[l], weights[l]);
    }
    autoround::LayerResult trained = autoround::train_layer(
        {.config = config,
         .weights = weights,
         .online = work.layer.online,
         .scheme = scheme,
         .untrained = untrained,
         .rope = work.pass().rope(),
         .inputs = work.inputs(),
         .targets = work.outputs(),
         .routes = routes ? &*routes : nullptr,
         .seed = plan.options.seed,
         .layer_idx = work.layer_idx,
         .directory = work.pass().scratch()},
        options_, [&](int64_t iteration, double loss) {
          work.progress().iteration(work.layer_idx, iteration, options_.iters, loss);
          stop_if_asked(work.progress());
        });
    for (const Linear l : linears) {
      if (scheme[l]) result.quantized[l] = std::move(trained.weights[l]);
      if (replaced[l].size() != 0) std::swap(replaced[l], weights[l]);
    }
    result.trained.push_back(std::move(trained.report));
  }

  bool may_end_early() const noexcept override { return options_.until_flat; }
  // Goes through batches in pieces.
  void save_memory(int level) noexcept override {
    options_.max_whole_tokens = level > 0 ? 0 : max_whole_tokens_;
  }

 private:
  autoround::LayerScheme trained_scheme(const Plan& plan, int64_t layer_idx) const {
    return own_scheme(plan, layer_idx, [&](const quant::LinearScheme& scheme) {
      return options_.trains(scheme.weight.bits);
    });
  }

  autoround::TrainOptions options_;
  int64_t max_whole_tokens_;
};

}  // namespace

std::unique_ptr<Step> plan_step(const recipe::AutoroundQuant& what, const recipe::Location&,
                                Planning planning) {
  autoround::TrainOptions options = what.options;
  options.compute = planning.plan.options.compute;
  return std::make_unique<TrainStep>(planning.plan.steps.size(), options);
}

}  // namespace laos::pipeline
