// The steps of a plan carried out on one decoder layer.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "autoround/train_layer.h"
#include "hf/quantized_checkpoint.h"
#include "model/activation_stats.h"
#include "pipeline/division.h"
#include "pipeline/float_pass.h"
#include "pipeline/plan.h"
#include "quant/gptq.h"
#include "quant/int_weight.h"
#include "save/checkpoint_writer.h"

namespace laos::pipeline {

// What enters and leaves a layer in the float model, in the basis of FloatPass; for its steps to
// look at.
struct LayerStates {
  const model::HiddenStates* inputs = nullptr;
  model::HiddenStates* outputs = nullptr;  // null: nobody wants them
  bool has_outputs = false;                // else the steps' first look at the layer computes them
  // Samples whose rows are there; null: all. Where some are missing only training may look.
  const std::vector<int64_t>* present = nullptr;
};

// Attention's cache of a layer in int8: its scales, and what share of Σ x² the codes lose over the
// calibration tokens.
struct CacheCodes {
  hf::CacheScales scales;
  double key_error = 0, value_error = 0;
};

// Calibration tokens of each routed expert that was solved for. Those with fewer than `enough` were
// given average ones in addition, see gptq::InputGrams.
struct ExpertTokens {
  std::vector<int64_t> counts;
  int64_t enough = 0;
};

// A layer that is done.
struct QuantizedLayer {
  FloatLayer layer;  // what is quantized stays in here as it was
  autoround::LayerCodes quantized = {};
  model::PerLinear<std::optional<quant::StaticRange>> ranges = {};
  model::PerLinear<quant::Refit> refits = {};        // share 0: none
  std::vector<autoround::LayerReport> trained = {};  // by each autoround_quant
  std::optional<CacheCodes> cache = {};              // nullopt: floats
  std::optional<ExpertTokens> experts = {};          // nullopt: none was solved for
};

// A float layer on its way through the steps that transform it.
class FloatWork {
 public:
  const int64_t layer_idx;
  FloatLayer& layer;

  virtual ~FloatWork() = default;
  virtual int64_t num_tokens() const = 0;
  // Passes all samples through the layer as it is now.
  virtual void look(const FloatPass::Observe& observe) = 0;
  // Moves the layer, and what later steps look at, into the rotated basis; `step` asks for it.
  virtual void rotate(size_t step) = 0;

 protected:
  FloatWork(int64_t index, FloatLayer& float_layer) : layer_idx(index), layer(float_layer) {}
};

// The same of a layer that is quantized.
class LayerWork : public FloatWork {
 public:
  QuantizedLayer& result;

  // All arguments must outlive this.
  LayerWork(const Plan& plan, FloatPass& pass, Progress& progress, int64_t index,
            QuantizedLayer& quantized, LayerStates& states, bool wants_outputs)
      : FloatWork(index, quantized.layer),
        result(quantized),
        plan_(plan),
        pass_(pass),
        progress_(progress),
        states_(states),
        wants_outputs_(wants_outputs),
        inputs_(states.inputs),
        outputs_(states.outputs) {}

  void carry_out(size_t step);  // of the plan
  int64_t num_tokens() const override { return inputs_->samples.num_tokens(); }
  void look(const FloatPass::Observe& observe) override;
  void rotate(size_t step) override;
  // outputs() are there from then on.
  void ensure_outputs();
  // What enters and leaves the float layer, in the basis that it is in.
  const model::HiddenStates& inputs() const { return *inputs_; }
  const model::HiddenStates& outputs() const { return *outputs_; }
  FloatPass& pass() const { return pass_; }
  Progress& progress() const { return progress_; }

 private:
  const Plan& plan_;
  FloatPass& pass_;
  Progress& progress_;
  LayerStates& states_;  // of the chain
  const bool wants_outputs_;
  // What steps look at: of the chain, or of the rotated copies below.
  const model::HiddenStates* inputs_;
  const model::HiddenStates* outputs_;
  model::HiddenStates rotated_inputs_, rotated_outputs_;
  std::string at_work_;  // type of the step
};

// All steps of the plan. `wants_outputs`: the outputs of `states` are computed even if no step
// needs them. Throws Error as the steps do, kStopped.
QuantizedLayer run_steps(const Plan& plan, FloatPass& pass, Progress& progress, int64_t layer_idx,
                         LayerStates& states, bool wants_outputs);

// What training made of a layer, or which experts saw few tokens, in a few words; empty where there
// is nothing to say.
std::string note_of(const QuantizedLayer& layer);

// Writes every tensor of the layer, between begin_layer and finish_layer.
void write_layer(const Plan& plan, int64_t layer_idx, const QuantizedLayer& layer,
                 save::CheckpointWriter& writer);

}  // namespace laos::pipeline
