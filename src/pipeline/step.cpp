#include "pipeline/step.h"

#include <algorithm>
#include <numeric>

#include "pipeline/plan.h"

namespace laos::pipeline {

std::vector<int64_t> Step::samples(const Plan& plan, int64_t) const {
  std::vector<int64_t> all(plan.samples->size());
  std::iota(all.begin(), all.end(), int64_t{0});
  return all;
}

StepCost Step::cost(const Plan&, int64_t) const { return {}; }

int64_t Step::peak_memory(const Plan&, int64_t, const LayerMemory& memory) const {
  return memory.weights + memory.forward;
}

StepFiles Step::files(const Plan&, int64_t) const { return {}; }

void Step::transform(const Plan&, FloatWork&) const {}

void Step::quantize(const Plan&, LayerWork&) const {}

bool Step::transforms_inputs(const Plan& plan, int64_t layer_idx) {
  return plan.job.online.has_value() ||
         std::ranges::any_of(
             model::linears_in(plan.checkpoint.config(), layer_idx),
             [&](model::Linear l) { return plan.linear(layer_idx, l).pair_blocks() > 0; });
}

autoround::LayerScheme Step::own_scheme(const Plan& plan, int64_t layer_idx,
                                        const Wants& wants) const {
  autoround::LayerScheme scheme;
  for (const model::Linear l : model::linears_in(plan.checkpoint.config(), layer_idx)) {
    const PlannedLinear& linear = plan.linear(layer_idx, l);
    if (linear.scheme && linear.step == index_ && (!wants || wants(*linear.scheme)))
      scheme[l] = linear.scheme;
  }
  return scheme;
}

}  // namespace laos::pipeline
