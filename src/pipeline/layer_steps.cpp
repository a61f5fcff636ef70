#include "pipeline/layer_steps.h"

#include <algorithm>
#include <cstdio>
#include <span>
#include <utility>

#include "save/format.h"
#include "save/pairs.h"

namespace laos::pipeline {

using model::Linear;

QuantizedLayer run_steps(const Plan& plan, FloatPass& pass, Progress& progress, int64_t layer_idx,
                         LayerStates& states, bool wants_outputs) {
  QuantizedLayer result{.layer = pass.read(layer_idx)};
  LayerWork work(plan, pass, progress, layer_idx, result, states, wants_outputs);
  for (size_t i = 0; i < plan.steps.size(); ++i) work.carry_out(i);
  if (wants_outputs) work.ensure_outputs();
  return result;
}

void LayerWork::carry_out(size_t step) {
  at_work_ = plan_.step_type(step);
  const TimeSheet::Span timed(pass_.times(), at_work_);
  plan_.steps[step]->transform(plan_, *this);
  plan_.steps[step]->quantize(plan_, *this);
}

// The first look is before any step that depends on activations, so that what it leaves in the
// outputs is the chain's.
void LayerWork::look(const FloatPass::Observe& observe) {
  LAOS_ASSERT(states_.present == nullptr);
  const bool is_first = !states_.has_outputs;
  LAOS_ASSERT(!is_first || inputs_ == states_.inputs);
  FloatPass::Observe timed;
  if (observe)
    timed = [&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
      const TimeSheet::Span span(pass_.times(), inputs_time(at_work_));
      observe(batch, piece);
    };
  pass_.forward(layer, *inputs_, is_first ? states_.outputs : nullptr, timed);
  if (is_first) states_.has_outputs = true;
}

void LayerWork::ensure_outputs() {
  if (!states_.has_outputs) look(nullptr);
}

void LayerWork::rotate(size_t step) {
  bool reads_later = false, reads_outputs_later = false;
  for (size_t later = step + 1; later < plan_.steps.size(); ++later) {
    if (!plan_.steps[later]->reads(plan_, layer_idx)) continue;
    reads_later = true;
    reads_outputs_later = reads_outputs_later || plan_.steps[later]->reads_outputs();
  }
  if (!pass_.rotates_first()) {
    // The chain of hidden states stays in the basis that it began in.
    if (wants_outputs_ || reads_outputs_later) ensure_outputs();
    if (reads_later) {
      rotated_inputs_ = pass_.rotated(*inputs_, states_.present);
      inputs_ = &rotated_inputs_;
      // Later looks keep no outputs: those of the chain are not theirs to give.
      states_.has_outputs = true;
    }
    if (reads_outputs_later) {
      rotated_outputs_ = pass_.rotated(*outputs_, states_.present);
      outputs_ = &rotated_outputs_;
    }
  }
  pass_.rotate(layer_idx, layer);
}

std::string note_of(const QuantizedLayer& layer) {
  std::string note;
  if (layer.experts) {
    const std::vector<int64_t>& counts = layer.experts->counts;
    const auto few =
        std::ranges::count_if(counts, [&](int64_t count) { return count < layer.experts->enough; });
    const auto none = std::ranges::count(counts, 0);
    if (few > 0)
      note = std::to_string(few) + " of " + std::to_string(counts.size()) +
             " experts saw fewer than " + std::to_string(layer.experts->enough) + " tokens" +
             (none > 0 ? ", " + std::to_string(none) + " of them none" : "");
  }
  for (const autoround::LayerReport& report : layer.trained) {
    if (report.losses.empty()) continue;
    char text[96];
    // Where rounding alone loses nothing, as in a layer of zeros, training changes nothing.
    const double change = report.rounding_loss > 0 ? report.loss / report.rounding_loss - 1 : 0;
    std::snprintf(text, sizeof text, "error %.5f -> %.5f (%+.0f %%)", report.rounding_loss,
                  report.loss, 100 * change);
    note = text;
  }
  return note;
}

void write_layer(const Plan& plan, int64_t layer_idx, const QuantizedLayer& layer,
                 save::CheckpointWriter& writer) {
  const hf::Config& config = plan.checkpoint.config();
  const model::LayerWeights& weights = layer.layer.weights;
  const model::OnlineTransforms& online = layer.layer.online;
  if (layer.cache)
    for (const auto& [l, scales] : {std::pair(Linear::kKProj, &layer.cache->scales.keys),
                                    {Linear::kVProj, &layer.cache->scales.values}})
      writer.write_cache_scales(model::name_of(config, layer_idx, l), *scales);
  for (const Linear l : model::linears_in(config, layer_idx)) {
    const std::string name = model::name_of(config, layer_idx, l);
    const Mat<float>& bias = weights.biases[l];
    if (const auto& scheme = plan.linear(layer_idx, l).scheme) {
      std::optional<save::InputTransform> transform;
      save::MatrixPair<float> repeated;
      if (const quant::ActSpec& act = scheme->act; act.pair_blocks > 0) {
        const model::KroneckerTransform& pair = *online.of(hf::group_of(l));
        transform = {.left = pair.left.view(), .right = pair.right.view(), .clip = pair.clip};
        if (act.pair_unit > 0) {
          repeated = save::repeated(pair.right.view(),
                                    scheme::pair_sizes(weights[l].cols() / act.pair_blocks), 1.0f);
          transform->left = std::as_const(repeated.left).view();
          transform->right = std::as_const(repeated.right).view();
        }
      }
      writer.write_linear(name, layer.quantized[l], layer.ranges[l] ? &*layer.ranges[l] : nullptr,
                          std::span(bias.data(), static_cast<size_t>(bias.size())),
                          transform ? &*transform : nullptr);
      continue;
    }
    writer.write_float(name + ".weight", weights[l].view());
    if (bias.size() != 0) writer.write_float(name + ".bias", bias.view());
  }
  if (plan.job.online) {
    if (const model::KroneckerTransform* heads = online.of(model::LinearGroup::kO))
      writer.write_f32(model::name_of(config, layer_idx, Linear::kOProj) + ".heads_rotation",
                       heads->left.view());
    if (const model::KroneckerTransform* down = online.of(model::LinearGroup::kDown)) {
      const std::string name = model::name_of(config, layer_idx, Linear::kDownProj);
      writer.write_f32(name + ".kronecker_rotation_m", down->left.view());
      writer.write_f32(name + ".kronecker_rotation_n", down->right.view());
    }
  }
  for (const hf::Norm norm : hf::kAllNorms)
    if (weights[norm].size() != 0)
      writer.write_float(hf::name_of(config, layer_idx, norm) + ".weight", weights[norm].view());
  for (const hf::Router router : hf::kAllRouters)
    if (weights[router].size() != 0)
      writer.write_float(hf::name_of(config, layer_idx, router) + ".weight",
                         weights[router].view());
}

}  // namespace laos::pipeline
