// The steps of a plan carried out on one decoder layer.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "autoround/train_layer.h"
#include "model/activation_stats.h"
#include "pipeline/float_pass.h"
#include "pipeline/plan.h"
#include "quant/int_weight.h"
#include "save/ascendv1.h"

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

// A layer that is done.
struct QuantizedLayer {
  FloatLayer layer;  // what is quantized stays in here as it was
  autoround::LayerCodes quantized = {};
  std::array<std::optional<quant::StaticRange>, model::kNumLinears> ranges = {};
  std::vector<autoround::LayerReport> trained = {};  // by each autoround_quant
};

// All arguments must outlive this.
class LayerSteps {
 public:
  LayerSteps(const Plan& plan, FloatPass& pass, Progress& progress)
      : plan_(plan), pass_(pass), progress_(progress), config_(plan.checkpoint.config()) {}

  // `wants_outputs`: the outputs of `states` are computed even if no step needs them. Throws Error
  // as the steps do, kStopped.
  QuantizedLayer run(int64_t layer_idx, LayerStates& states, bool wants_outputs);

 private:
  // A layer on its way through the steps.
  struct Work {
    int64_t layer_idx;
    QuantizedLayer& result;
    LayerStates& states;  // of the chain
    // What steps look at: of the chain, or of the rotated copies below.
    const model::HiddenStates* inputs;
    const model::HiddenStates* outputs;
    model::HiddenStates rotated_inputs = {}, rotated_outputs = {};
    const model::LayerWeights& weights() const { return result.layer.weights; }
  };

  void look(Work& work, const FloatPass::Observe& observe);
  void ensure_outputs(Work& work);
  void run_heads(Work& work, size_t step, const HeadStep& heads);
  void run_smooth(Work& work, size_t step, const SmoothStep& smooth);
  void run_rotate(Work& work, size_t step, bool wants_outputs);
  void run_round(Work& work, size_t step, const RoundStep& round);
  autoround::LayerReport run_train(Work& work, size_t step, const autoround::TrainOptions& options);
  quant::StaticRange range_of(const model::ActivationStats::Group& stats,
                              const quant::ActSpec& act) const;

  const Plan& plan_;
  FloatPass& pass_;
  Progress& progress_;
  const hf::Config& config_;
};

// What training made of a layer, in a few words; empty when nothing was trained.
std::string training_note(const std::vector<autoround::LayerReport>& trained);

// Writes every tensor of the layer, between begin_layer and finish_layer.
void write_layer(const Plan& plan, int64_t layer_idx, const QuantizedLayer& layer,
                 save::AscendV1Writer& writer);

}  // namespace laos::pipeline
