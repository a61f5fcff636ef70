#include "pipeline/layer_steps.h"
#include "rotation/head_fit.h"

namespace laos::pipeline {
namespace {

// head_rotation.
class HeadStep : public Step {
 public:
  HeadStep(size_t index, const rotation::HeadFitOptions& options)
      : Step(index), options_(options) {}

  // Where o_proj's inputs keep more bits there is nothing to win.
  bool reads(const Plan& plan, int64_t layer_idx) const override {
    const std::optional<quant::LinearScheme>& scheme =
        plan.linear(layer_idx, model::Linear::kOProj).scheme;
    return scheme && !scheme->act.is_static && scheme->act.bits == 4;
  }

  StepCost cost(const Plan& plan, int64_t) const override {
    return {.flops = rotation::head_fit_flops(plan.checkpoint.config(), options_,
                                              lengths_of(*plan.samples).num_tokens())};
  }

  int64_t peak_memory(const Plan& plan, int64_t, const LayerMemory& memory) const override {
    return memory.weights + memory.forward +
           rotation::head_fit_bytes(plan.checkpoint.config(),
                                    lengths_of(*plan.samples).num_tokens());
  }

  void transform(const Plan& plan, FloatWork& work) const override {
    if (!reads(plan, work.layer_idx)) return;
    const hf::Config& config = plan.checkpoint.config();
    rotation::HeadRows rows(config, work.num_tokens());
    work.look([&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
      rows.observe(piece, batch.num_tokens());
    });
    rotation::rotate_heads(config, rotation::fit_heads(config, std::move(rows).take(), options_),
                           work.layer.weights);
  }

 private:
  rotation::HeadFitOptions options_;
};

}  // namespace

std::unique_ptr<Step> plan_step(const recipe::HeadRotation& what, const recipe::Location&,
                                Planning planning) {
  return std::make_unique<HeadStep>(planning.plan.steps.size(), what.options);
}

}  // namespace laos::pipeline
