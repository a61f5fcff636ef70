// The scales of a quantized checkpoint learned from its float model, all layers at once: what a
// layer loses, later ones make up for where that costs nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "eval/eval_model.h"
#include "hf/quantized_checkpoint.h"
#include "linalg/gemm.h"
#include "tune/scale_linears.h"

namespace laos::tune {

struct FitOptions {
  int64_t steps = 100;
  int64_t batch = 2;   // samples of a step
  double lr = 3e-3;    // of Adam on log factors in the first step; falls to 0 as a cosine
  uint32_t seed = 42;  // of the draws
  linalg::ComputeType compute = linalg::ComputeType::kF32;
};

// Of every so manyth sample the model is judged on, nothing is learned.
inline constexpr int64_t kHeldBack = 8;

// What a step was like: the divergence of its samples, or, of step 0 and those where it was judged,
// of those held back. Both KL(float || quantized) in nats a token.
struct FitStep {
  int64_t step = 0;
  double kl = 0;
  bool is_held_back = false;
};

struct FitResult {
  std::vector<RowValues> log_factors;  // by layer; of the best step
  int64_t best_step = 0;               // 0: no step was better than the scales as they are
  double kl_before = 0, kl = 0;        // of the samples held back: at first, and of the best step
};

// Where a fit stands after a step, from which it goes on to the same result. Vectors hold a value
// for each row of all linears that have factors, in order.
struct FitState {
  int64_t step = 0, best_step = 0;
  double kl_before = 0, kl = 0;
  std::vector<float> values, best;   // log factors
  std::vector<float> first, second;  // the moments of Adam
};

// Whoever follows a fit.
class FitObserver {
 public:
  virtual ~FitObserver() = default;
  // After each step; false ends the fit there.
  virtual bool step(const FitStep& /*step*/) { return true; }
  // After every kKeptSteps steps.
  virtual void keep(const FitState& /*state*/) {}
};
inline constexpr int64_t kKeptSteps = 10;

// Throws Error: kUnsupported for mixtures of experts and where no linear has scales to learn,
// kShape where the models differ in layers, width or vocabulary.
void require_tunable(const hf::QuantizedCheckpoint& checkpoint, const hf::Config& teacher);

// Throws Error: as above, kData on fewer than two samples, kNumeric when the divergence is not
// finite.
// Goes on from `state`, of a fit with the same arguments, unless it is null. Same arguments, same
// bytes, on any number of threads.
FitResult fit_scales(const hf::QuantizedCheckpoint& checkpoint, const eval::EvalModel& teacher,
                     const std::vector<std::vector<int32_t>>& samples, const FitOptions& options,
                     FitObserver& observer, const FitState* state = nullptr);

// Rows of linears that have factors: sizes of a FitState's vectors.
int64_t num_factors(const hf::QuantizedCheckpoint& checkpoint);

// What it costs: products, in operations, of the float model in f32 and of the fit in
// options.compute; and the largest size of what it holds.
struct FitFlops {
  double teacher = 0, fit = 0;
};
FitFlops fit_flops(const hf::Config& config, const std::vector<std::vector<int32_t>>& samples,
                   const FitOptions& options);
int64_t fit_bytes(const hf::Config& config, const std::vector<std::vector<int32_t>>& samples,
                  const FitOptions& options);

}  // namespace laos::tune
