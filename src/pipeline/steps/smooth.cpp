#include "smooth/smooth.h"

#include <algorithm>
#include <set>

#include "pipeline/layer_steps.h"

namespace laos::pipeline {
namespace {

// iter_smooth.
class SmoothStep : public Step {
 public:
  // `sources`: of the pairs to smooth, see smooth::source_of.
  SmoothStep(size_t index, const smooth::SmoothOptions& options, std::set<std::string> sources)
      : Step(index), options_(options), sources_(std::move(sources)) {}

  bool reads(const Plan& plan, int64_t layer_idx) const override {
    return std::any_of(smooth::kAllPairs.begin(), smooth::kAllPairs.end(), [&](smooth::Pair pair) {
      return has(plan.checkpoint.config(), layer_idx, pair);
    });
  }

  void transform(const Plan& plan, FloatWork& work) const override {
    if (!reads(plan, work.layer_idx)) return;
    const hf::Config& config = plan.checkpoint.config();
    model::ActivationStats stats(config, work.layer.online);
    work.look([&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
      stats.observe(batch, piece);
    });
    for (const smooth::Pair pair : smooth::kAllPairs)
      if (has(config, work.layer_idx, pair))
        smooth::smooth_pair(config, options_, pair, stats, work.layer.weights);
  }

 private:
  bool has(const hf::Config& config, int64_t layer_idx, smooth::Pair pair) const {
    return sources_.contains(smooth::source_of(config, layer_idx, pair));
  }

  smooth::SmoothOptions options_;
  std::set<std::string> sources_;
};

}  // namespace

// The pairs that include and exclude leave.
std::unique_ptr<Step> plan_step(const recipe::IterSmooth& what, const recipe::Location& location,
                                Planning planning) {
  Plan& plan = planning.plan;
  std::vector<std::string> names;
  for (int64_t i = 0; i < plan.checkpoint.config().num_hidden_layers; ++i)
    for (const smooth::Pair pair : smooth::kAllPairs)
      if (smooth::is_enabled(what.options, pair))
        names.push_back(smooth::source_of(plan.checkpoint.config(), i, pair));
  const recipe::Assignment assignment = assign({{.scheme = std::nullopt,
                                                 .include = what.include,
                                                 .exclude = what.exclude,
                                                 .location = location}},
                                               names, planning);
  std::set<std::string> sources;
  for (const auto& [name, unused] : assignment.strategy_of) sources.insert(name);
  return std::make_unique<SmoothStep>(plan.steps.size(), what.options, std::move(sources));
}

}  // namespace laos::pipeline
