#include "linalg/hadamard.h"
#include "pipeline/layer_steps.h"
#include "rotation/rotation.h"

namespace laos::pipeline {
namespace {

// quarot, and stage 2 of adapt_rotation.
class RotateStep : public Step {
 public:
  RotateStep(size_t index, const rotation::RotateOptions& options)
      : Step(index), options_(options) {}

  bool reads(const Plan&, int64_t) const override { return false; }
  const rotation::RotateOptions* rotates() const noexcept override { return &options_; }

  void transform(const Plan&, FloatWork& work) const override { work.rotate(index()); }

 private:
  rotation::RotateOptions options_;
};

void require_online(const rotation::RotateOptions& options, const recipe::Location& location,
                    Planning planning) {
  Problems& problems = planning.problems;
  const hf::Config& config = planning.plan.checkpoint.config();
  require_hadamard(config.num_attention_heads, options.max_tp_size, "num_attention_heads", location,
                   planning, "max_tp_size");
  if (const auto factors = rotation::kronecker_factors(config.intermediate_size)) {
    require_hadamard(factors->first, options.max_tp_size, "intermediate_size's first factor",
                     location, planning, "max_tp_size");
    require_hadamard(factors->second, -1, "intermediate_size's second factor", location, planning);
  } else {
    problems.add(
        {.what = "intermediate_size " + std::to_string(config.intermediate_size) +
                 " has no two Hadamard factors of at most 256, which online rotation needs",
         .where = location.text(),
         .fix = "write online: false"});
  }
  for (const int64_t layer_idx : options.down_online_layers)
    if (layer_idx >= config.num_hidden_layers)
      problems.add({.what = rotation::kDownOnlineLayersKey + std::string(" names layer ") +
                            std::to_string(layer_idx) + "; the model has " +
                            std::to_string(config.num_hidden_layers),
                    .where = location.text(),
                    .fix = "count layers from 0"});
  planning.plan.warnings.push_back(
      location.text() +
      ": online rotation: today's vLLM-Ascend cannot load the checkpoint that this makes");
}

}  // namespace

void require_hadamard(int64_t size, int64_t block_size, const std::string& dimension,
                      const recipe::Location& location, Planning planning, const std::string& key) {
  Problems& problems = planning.problems;
  const int64_t block = block_size == -1 ? size : block_size;
  if (block < 1 || block > size || size % block != 0)
    problems.add({.what = key + " " + std::to_string(block) + " does not divide " + dimension +
                          " " + std::to_string(size),
                  .where = location.text(),
                  .fix = std::string(key == "block_size" ? "use -1, or a" : "use a") +
                         " power of two that divides it"});
  else if (linalg::hadamard_order(block) != 0)
    return;
  else if (const int64_t order = linalg::stand_in_order(block); order != 0)
    planning.plan.warnings.push_back(
        location.text() + ": no Hadamard matrix is known for " + dimension + " " +
        std::to_string(size) + "; Hartley's orthogonal matrix of order " + std::to_string(order) +
        " stands in, with entries up to 1.41 times as large");
  else
    problems.add(
        {.what = "no Hadamard matrix is known for " + dimension + " " + std::to_string(size),
         .where = location.text(),
         .fix = "set block_size to a power of two that divides it; " + linalg::hadamard_sizes()});
}

std::unique_ptr<Step> plan_step(const recipe::Rotate& what, const recipe::Location& location,
                                Planning planning) {
  const hf::Config& config = planning.plan.checkpoint.config();
  const rotation::RotateOptions& options = what.options;
  require_hadamard(config.head_dim, options.block_size, "head_dim", location, planning);
  if (!options.use_fitted)
    require_hadamard(config.hidden_size, options.block_size, "hidden_size", location, planning);
  if (options.online) require_online(options, location, planning);
  return std::make_unique<RotateStep>(planning.plan.steps.size(), options);
}

}  // namespace laos::pipeline
