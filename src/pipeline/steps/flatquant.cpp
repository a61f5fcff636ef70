#include "flatquant/fit.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "pipeline/layer_steps.h"

namespace laos::pipeline {
namespace {

using model::Linear;
using model::LinearGroup;

// flatquant.
class FlatquantStep : public Step {
 public:
  FlatquantStep(size_t index, const flatquant::FlatquantOptions& options)
      : Step(index), options_(options) {}

  bool reads(const Plan& plan, int64_t layer_idx) const override {
    return std::any_of(model::kAllLinearGroups.begin(), model::kAllLinearGroups.end(),
                       [&](LinearGroup group) { return blocks_of(plan, layer_idx, group) > 0; });
  }

  StepCost cost(const Plan& plan, int64_t layer_idx) const override {
    StepCost cost;
    for (const LinearGroup group : model::kAllLinearGroups)
      if (blocks_of(plan, layer_idx, group) > 0)
        cost.flops += cost_of(plan, layer_idx, group).flops;
    return cost;
  }

  int64_t peak_memory(const Plan& plan, int64_t layer_idx,
                      const LayerMemory& memory) const override {
    // The rows of all groups at once; after the pass each group's are freed when it was fitted.
    const int64_t num_rows =
        std::min(lengths_of(*plan.samples).num_tokens(), flatquant::InputRows::kMaxRows);
    int64_t rows = 0, beside = 0;  // the latter: of a fit, its rows not counted
    for (const LinearGroup group : model::kAllLinearGroups) {
      if (blocks_of(plan, layer_idx, group) == 0) continue;
      const int64_t own = 4 * num_rows * model::in_features(plan.checkpoint.config(),
                                                            model::linears_of(group).front());
      rows += own;
      beside = std::max(beside, cost_of(plan, layer_idx, group).bytes - own);
    }
    return memory.weights + rows + std::max(memory.forward, beside);
  }

  void transform(const Plan& plan, FloatWork& work) const override {
    if (!reads(plan, work.layer_idx)) return;
    const hf::Config& config = plan.checkpoint.config();
    std::array<std::optional<flatquant::InputRows>, model::kAllLinearGroups.size()> rows;
    for (const LinearGroup group : model::kAllLinearGroups)
      if (blocks_of(plan, work.layer_idx, group) > 0)
        rows[static_cast<size_t>(group)].emplace(
            work.num_tokens(), model::in_features(config, model::linears_of(group).front()));
    work.look([&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
      for (const LinearGroup group : model::kAllLinearGroups)
        if (auto& kept = rows[static_cast<size_t>(group)])
          kept->observe(piece.input_of(group).view().slice_rows(0, batch.num_tokens()));
    });
    for (const LinearGroup group : model::kAllLinearGroups) {
      auto& kept = rows[static_cast<size_t>(group)];
      if (!kept) continue;
      transform_group(plan, group, *std::exchange(kept, std::nullopt), work);
    }
  }

 private:
  // Blocks of a group's inputs that share a pair; 0 where the group is not transformed.
  static int64_t blocks_of(const Plan& plan, int64_t layer_idx, LinearGroup group) {
    return plan.linear(layer_idx, model::linears_of(group).front()).pair_blocks();
  }

  // Of the pair that is fitted.
  static scheme::PairSizes sizes_of(const Plan& plan, int64_t layer_idx, LinearGroup group) {
    const int64_t unit =
        plan.linear(layer_idx, model::linears_of(group).front()).scheme->act.pair_unit;
    if (unit > 0) return {.left = 1, .right = unit, .refusal = ""};
    return scheme::pair_sizes(
        model::in_features(plan.checkpoint.config(), model::linears_of(group).front()) /
        blocks_of(plan, layer_idx, group));
  }

  flatquant::Cost cost_of(const Plan& plan, int64_t layer_idx, LinearGroup group) const {
    const hf::Config& config = plan.checkpoint.config();
    int64_t out_features = 0;
    for (const Linear l : model::linears_of(group)) out_features += model::out_features(config, l);
    const scheme::PairSizes sizes = sizes_of(plan, layer_idx, group);
    return flatquant::cost_of(
        out_features, model::in_features(config, model::linears_of(group).front()), sizes.left,
        sizes.right, lengths_of(*plan.samples).num_tokens(), options_);
  }

  void transform_group(const Plan& plan, LinearGroup group, const flatquant::InputRows& rows,
                       FloatWork& work) const {
    model::LayerWeights& weights = work.layer.weights;
    const Mat<float> stacked = model::stack(weights, model::linears_of(group));
    const scheme::PairSizes sizes = sizes_of(plan, work.layer_idx, group);
    flatquant::Fitted fitted =
        flatquant::fit(rows, stacked.view(), sizes.left, sizes.right, plan.float_dtype, options_);
    for (const Linear l : model::linears_of(group))
      flatquant::fold(fitted.transform, weights[l].view());
    char text[96];
    std::snprintf(text, sizeof text, "%s, clip %.3g: error %.4g, plain %.4g", fitted.kind.c_str(),
                  static_cast<double>(fitted.transform.clip), fitted.error, fitted.plain_error);
    work.layer.transforms[static_cast<size_t>(group)] = text;
    work.layer.online[group] =
        std::make_shared<model::KroneckerTransform>(std::move(fitted.transform));
  }

  flatquant::FlatquantOptions options_;
};

}  // namespace

std::unique_ptr<Step> plan_step(const recipe::Flatquant& what, const recipe::Location&,
                                Planning planning) {
  return std::make_unique<FlatquantStep>(planning.plan.steps.size(), what.options);
}

}  // namespace laos::pipeline
