// The float model run over calibration samples a layer at a time: what the steps of a plan look at.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "io/paged_memory.h"
#include "model/hidden_states.h"
#include "model/online_transform.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"
#include "rotation/rotation.h"

namespace laos::pipeline {

// Throws Error(kStopped) when `progress` says to stop.
void stop_if_asked(Progress& progress);

// Throws Error(kNumeric) naming the layer when what its linears read, which `saved` has of the
// first `num_tokens` rows, is not finite.
void require_finite(const Plan& plan, int64_t layer_idx, const model::LayerSaved<float>& saved,
                    int64_t num_tokens);

// A decoder layer in float, and what is rotated while it runs.
struct FloatLayer {
  model::LayerWeights weights;
  model::OnlineTransforms online = {};
  // What was put in front of each group of linears, for the record; empty: nothing.
  std::array<std::string, model::kAllLinearGroups.size()> transforms = {};
  int64_t layer_idx = 0;
};

// Throws Error(kNumeric) where rotation has left a weight that is NaN or infinite.
void require_finite_rotated(const Mat<float>& weight, const std::string& name);

// Its norms folded, everything from the model's own basis to that of `rotation`. Throws Error as
// require_finite_rotated.
void rotate_float(const hf::Config& config, const rotation::ModelRotation& rotation,
                  int64_t layer_idx, FloatLayer& layer);

// Hidden states of the float model are one chain from the embedding on, in one basis: the rotated
// one where no step looks at activations before they are rotated, else the model's own. They depend
// on the plan and on the samples alone, not on what steps make of the layers passed, and each
// sample's on that sample and its neighbours of the same piece of kForwardTokens tokens alone: any
// set of whole pieces gives the same bytes as all of them. `plan`, `rotation` and `progress` must
// outlive this; `rotation` is null when the plan does not rotate.
class FloatPass {
 public:
  // Hidden states are kept in `scratch`. `times`, if any, is told where time goes.
  FloatPass(const Plan& plan, const rotation::ModelRotation* rotation,
            std::filesystem::path scratch, Progress& progress, TimeSheet* times = nullptr);

  bool rotates_first() const noexcept { return rotates_first_; }
  model::TokenRows new_rows(int64_t num_tokens) const {
    return model::TokenRows(num_tokens, config_.hidden_size, scratch_);
  }
  // What enters the first layer.
  model::HiddenStates embed(const Samples& samples) const;
  // A layer as it is in the checkpoint. The next one is fetched from disk meanwhile.
  FloatLayer read(int64_t layer_idx);
  // A layer in the basis of the chain, for passing through it.
  FloatLayer load(int64_t layer_idx);
  // From the model's own basis to the rotated one.
  void rotate(int64_t layer_idx, FloatLayer& layer) const;
  // A copy, of all samples or of those in `present`, in order; of the others nothing is there.
  model::HiddenStates rotated(const model::HiddenStates& states,
                              const std::vector<int64_t>* present = nullptr) const;

  using Observe = std::function<void(const model::Ragged&, const model::LayerSaved<float>&)>;
  // The layer over all samples of `inputs`: its outputs unless `outputs` is null, and what
  // `observe` wants to see unless that is. `layer` is in the basis of `inputs`. Throws
  // Error(kNumeric) as require_finite.
  void forward(const FloatLayer& layer, const model::HiddenStates& inputs,
               model::HiddenStates* outputs, const Observe& observe = nullptr);
  // Of the longest sample.
  const model::Rope<float>& rope() const noexcept { return rope_; }
  // Where rows that do not stay in memory are kept.
  const std::filesystem::path& scratch() const noexcept { return scratch_; }
  // Null: nobody wants them.
  TimeSheet* times() const noexcept { return times_; }
  // Spent in forward() since it was last asked.
  double take_seconds() noexcept { return std::exchange(seconds_, 0); }

 private:
  void rotate_sample(model::HiddenStates& states, int64_t sample) const;

  const Plan& plan_;
  const rotation::ModelRotation* rotation_;
  const std::filesystem::path scratch_;
  Progress& progress_;
  TimeSheet* const times_;
  const hf::Config& config_;
  const bool rotates_first_;
  const model::Rope<float> rope_;
  double seconds_ = 0;
  io::ReadAhead read_ahead_;
};

}  // namespace laos::pipeline
