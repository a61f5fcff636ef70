// What a plan does to every decoder layer: a step for each processor of the recipe, in its order,
// and one for what the recipe says of the cache.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autoround/trainable_linears.h"
#include "recipe/recipe.h"

namespace laos::pipeline {

struct Plan;
class FloatWork;  // both in layer_steps.h
class LayerWork;

// Operations that a step spends on a layer, besides passing samples through it in float.
struct StepCost {
  double flops = 0;
  // Of these: training, and what else is in the dtype of the plan's products.
  double trained = 0, products = 0;
};

// What a step may build on when it says its memory: bytes of...
struct LayerMemory {
  int64_t weights;   // a layer's weights in f32
  int64_t forward;   // a pass of the samples through the float layer
  int64_t backward;  // scratch of all threads, and rope, while something is trained
};

// Files that a step keeps hidden states and weights in.
struct StepFiles {
  int64_t states = 0;  // copies of the hidden states of all samples
  int64_t bytes = 0;   // besides
};

// One processor. Everything the program knows of a processor after its recipe was read is here.
class Step {
 public:
  // `index`: of Plan::steps.
  explicit Step(size_t index) : index_(index) {}
  virtual ~Step() = default;

  // Whether it looks at activations of a layer. Only such layers are asked for what follows.
  virtual bool reads(const Plan& plan, int64_t layer_idx) const = 0;
  // True: at what enters the layer and what leaves it, which others have computed. False: at
  // what its linears read, so that it passes the samples through the layer itself.
  virtual bool reads_outputs() const noexcept { return false; }
  // How often it then passes them through.
  virtual int64_t looks(const Plan& /*plan*/, int64_t /*layer_idx*/) const { return 1; }
  // The samples that it looks at, in order.
  virtual std::vector<int64_t> samples(const Plan& plan, int64_t layer_idx) const;
  virtual StepCost cost(const Plan& plan, int64_t layer_idx) const;
  // Bytes at the most while it works on a layer, without the codes that steps before it made.
  virtual int64_t peak_memory(const Plan& plan, int64_t layer_idx, const LayerMemory& memory) const;
  virtual StepFiles files(const Plan& plan, int64_t layer_idx) const;

  // Changes weights of the float layer and keeps its function. Quantizers change nothing.
  virtual void transform(const Plan& plan, FloatWork& work) const;
  // Makes integer weights of the linears that the plan gives to this step.
  virtual void quantize(const Plan& plan, LayerWork& work) const;

  // Whether it solves for the codes of such a linear from the products of what the linear reads.
  virtual bool solves(const quant::LinearScheme&) const noexcept { return false; }
  // Null unless this step moves the model into the rotated basis.
  virtual const rotation::RotateOptions* rotates() const noexcept { return nullptr; }
  // Whether it may end before it has spent its cost.
  virtual bool may_end_early() const noexcept { return false; }
  // Leaves out what so few calibration tokens make worse. Whether there was any.
  virtual bool adapt_to_tokens(int64_t /*num_tokens*/) noexcept { return false; }
  // From now on it works the fastest way, 0, or a slower one that mostly takes less memory: the
  // more the higher the level, up to kMostSavings. Results do not depend on it.
  static constexpr int kMostSavings = 10;
  virtual void save_memory(int /*level*/) noexcept {}

 protected:
  size_t index() const noexcept { return index_; }
  // Whether some linear of a layer has a transform in front of it at run time.
  static bool transforms_inputs(const Plan& plan, int64_t layer_idx);
  // The schemes of the linears that this step quantizes, or of those of them that it `wants`;
  // nullopt for all others.
  using Wants = std::function<bool(const quant::LinearScheme&)>;
  autoround::LayerScheme own_scheme(const Plan& plan, int64_t layer_idx,
                                    const Wants& wants = nullptr) const;

 private:
  size_t index_;
};

// What the steps of a plan in the making share.
struct Planning {
  Plan& plan;  // its checkpoint and its options are there
  Problems& problems;
};

// What strategies decide of `names`. What is odd about their patterns becomes a warning of the
// plan, what is wrong a problem.
recipe::Assignment assign(const std::vector<recipe::Strategy>& strategies,
                          const std::vector<std::string>& names, Planning planning);

// The step of each processor that stands in spec.process, each in its file of pipeline/steps/. They
// report what is wrong with the model for them.
std::unique_ptr<Step> plan_step(const recipe::Rotate& what, const recipe::Location& location,
                                Planning planning);
std::unique_ptr<Step> plan_step(const recipe::IterSmooth& what, const recipe::Location& location,
                                Planning planning);
std::unique_ptr<Step> plan_step(const recipe::HeadRotation& what, const recipe::Location& location,
                                Planning planning);
std::unique_ptr<Step> plan_step(const recipe::Flatquant& what, const recipe::Location& location,
                                Planning planning);
std::unique_ptr<Step> plan_step(const recipe::LinearQuant& what, const recipe::Location& location,
                                Planning planning);
std::unique_ptr<Step> plan_step(const recipe::GptqQuant& what, const recipe::Location& location,
                                Planning planning);
std::unique_ptr<Step> plan_step(const recipe::AutoroundQuant& what,
                                const recipe::Location& location, Planning planning);
// That of spec.kv_cache, which comes last.
std::unique_ptr<Step> plan_step(const recipe::KvCache& what, Planning planning);

// Reports a dimension that has no Hadamard matrix of `block_size` (-1: of the whole dimension), as
// a warning where another matrix stands in. `key` is what the recipe calls that size.
void require_hadamard(int64_t size, int64_t block_size, const std::string& dimension,
                      const recipe::Location& location, Planning planning,
                      const std::string& key = "block_size");

}  // namespace laos::pipeline
