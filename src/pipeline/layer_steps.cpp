#include "pipeline/layer_steps.h"

#include <algorithm>
#include <cstdio>
#include <utility>
#include <variant>

#include "gptq/quantize_layer.h"
#include "rotation/head_fit.h"
#include "smooth/smooth.h"

namespace laos::pipeline {

using model::Linear;

QuantizedLayer LayerSteps::run(int64_t layer_idx, LayerStates& states, bool wants_outputs) {
  QuantizedLayer result{.layer = {.weights = plan_.checkpoint.load_layer(layer_idx)}};
  Work work{.layer_idx = layer_idx,
            .result = result,
            .states = states,
            .inputs = states.inputs,
            .outputs = states.outputs};
  for (size_t step = 0; step < plan_.steps.size(); ++step) {
    if (const auto* smooth = std::get_if<SmoothStep>(&plan_.steps[step]))
      run_smooth(work, step, *smooth);
    else if (const auto* heads = std::get_if<HeadStep>(&plan_.steps[step]))
      run_heads(work, step, *heads);
    else if (std::holds_alternative<RotateStep>(plan_.steps[step]))
      run_rotate(work, step, wants_outputs);
    else if (const auto* train = std::get_if<TrainStep>(&plan_.steps[step]))
      result.trained.push_back(run_train(work, step, train->options));
    else
      run_round(work, step, std::get<RoundStep>(plan_.steps[step]));
  }
  if (wants_outputs) ensure_outputs(work);
  return result;
}

// The first look is before any step that depends on activations, so that what it leaves in the
// outputs is the chain's.
void LayerSteps::look(Work& work, const FloatPass::Observe& observe) {
  LAOS_ASSERT(work.states.present == nullptr);
  const bool is_first = !work.states.has_outputs;
  LAOS_ASSERT(!is_first || work.inputs == work.states.inputs);
  pass_.forward(work.result.layer, *work.inputs, is_first ? work.states.outputs : nullptr, observe);
  if (is_first) work.states.has_outputs = true;
}

void LayerSteps::ensure_outputs(Work& work) {
  if (!work.states.has_outputs) look(work, nullptr);
}

void LayerSteps::run_smooth(Work& work, size_t step, const SmoothStep& smooth) {
  if (!plan_.reads_activations(step, work.layer_idx)) return;
  model::ActivationStats stats(config_, work.result.layer.online);
  look(work, [&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
    stats.observe(batch, piece);
  });
  for (const smooth::Pair pair : smooth::kAllPairs)
    if (smooth.sources.contains(smooth::source_of(work.layer_idx, pair)))
      smooth::smooth_pair(config_, smooth.options, pair, stats, work.result.layer.weights);
}

void LayerSteps::run_heads(Work& work, size_t step, const HeadStep& heads) {
  if (!plan_.reads_activations(step, work.layer_idx)) return;
  rotation::HeadRows rows(config_, work.inputs->samples.num_tokens());
  look(work, [&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
    rows.observe(piece, batch.num_tokens());
  });
  rotation::rotate_heads(config_,
                         rotation::fit_heads(config_, std::move(rows).take(), heads.options),
                         work.result.layer.weights);
}

void LayerSteps::run_rotate(Work& work, size_t step, bool wants_outputs) {
  bool read_later = false, trains_later = false;
  for (size_t later = step + 1; later < plan_.steps.size(); ++later) {
    const bool reads = plan_.reads_activations(later, work.layer_idx);
    read_later = read_later || reads;
    trains_later = trains_later || (reads && std::holds_alternative<TrainStep>(plan_.steps[later]));
  }
  if (!pass_.rotates_first()) {
    // The chain of hidden states stays in the basis that it began in.
    if (wants_outputs || trains_later) ensure_outputs(work);
    if (read_later) {
      work.rotated_inputs = pass_.rotated(*work.inputs, work.states.present);
      work.inputs = &work.rotated_inputs;
      // Later looks keep no outputs: those of the chain are not theirs to give.
      work.states.has_outputs = true;
    }
    if (trains_later) {
      work.rotated_outputs = pass_.rotated(*work.outputs, work.states.present);
      work.outputs = &work.rotated_outputs;
    }
  }
  pass_.rotate(work.layer_idx, work.result.layer);
}

// linear_quant and gptq_quant: codes from the weights and from one look at the float layer's
// activations.
void LayerSteps::run_round(Work& work, size_t step, const RoundStep& round) {
  QuantizedLayer& result = work.result;
  gptq::LayerScheme scheme, to_solve;
  for (const Linear l : model::kAllLinears) {
    const PlannedLinear& planned = plan_.linear(work.layer_idx, l);
    if (!planned.scheme || planned.step != step) continue;
    scheme[static_cast<size_t>(l)] = planned.scheme;
    if (round.solves(planned.scheme->weight.bits))
      to_solve[static_cast<size_t>(l)] = planned.scheme;
  }
  model::ActivationStats stats(config_, result.layer.online);
  std::optional<gptq::InputGrams> grams;
  if (round.gptq) grams.emplace(config_, to_solve, result.layer.online, round.gptq->refit);
  if (plan_.reads_activations(step, work.layer_idx))
    look(work, [&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
      stats.observe(batch, piece);
      if (grams) grams->observe(piece, batch.num_tokens());
    });
  if (grams) {
    auto solved =
        gptq::quantize_layer(result.layer.weights, to_solve, *round.gptq, *std::move(grams));
    for (size_t l = 0; l < solved.size(); ++l)
      if (to_solve[l]) result.quantized[l] = std::move(solved[l]);
  }
  for (const model::LinearGroup group : model::kAllLinearGroups)
    for (const Linear l : model::linears_of(group)) {
      const auto index = static_cast<size_t>(l);
      if (!scheme[index]) continue;
      if (!to_solve[index])
        result.quantized[index] =
            quant::quantize_rtn(result.layer.weights[l].view(), scheme[index]->weight);
      const quant::ActSpec& act = scheme[index]->act;
      if (act.is_static) result.ranges[index] = range_of(stats[group], act);
    }
}

quant::StaticRange LayerSteps::range_of(const model::ActivationStats::Group& stats,
                                        const quant::ActSpec& act) const {
  const auto count = static_cast<double>(stats.num_samples);
  const float min = act.mean_range ? static_cast<float>(stats.min_sum / count) : stats.min;
  const float max = act.mean_range ? static_cast<float>(stats.max_sum / count) : stats.max;
  return quant::static_range(min, max, act, config_.dtype);
}

autoround::LayerReport LayerSteps::run_train(Work& work, size_t step,
                                             const autoround::TrainOptions& options) {
  QuantizedLayer& result = work.result;
  autoround::LayerScheme scheme;
  autoround::ActBits untrained = {};
  // Linears that an earlier step quantized act as they are now, so that training makes up for it.
  std::array<Mat<float>, model::kNumLinears> replaced;
  if (plan_.reads_activations(step, work.layer_idx)) ensure_outputs(work);
  for (const Linear l : model::kAllLinears) {
    const PlannedLinear& planned = plan_.linear(work.layer_idx, l);
    const auto index = static_cast<size_t>(l);
    const bool in_step = planned.scheme && planned.step == step;
    const bool is_trained = in_step && options.trains(planned.scheme->weight.bits);
    if (in_step && !is_trained)
      result.quantized[index] =
          quant::quantize_rtn(result.layer.weights[l].view(), planned.scheme->weight);
    if (is_trained) {
      scheme[index] = planned.scheme;
    } else if (result.quantized[index].q.size() != 0) {
      const quant::ActSpec& act = planned.scheme->act;
      untrained[index] = act.is_static || act.bits > 8 ? 0 : act.bits;
      replaced[index] = quant::dequantize(result.quantized[index]);
      std::swap(replaced[index], result.layer.weights[l]);
    }
  }
  autoround::LayerResult trained = autoround::train_layer(
      config_, result.layer.weights, result.layer.online, scheme, options, pass_.rope(),
      *work.inputs, *work.outputs, plan_.options.seed, work.layer_idx,
      [&](int64_t iteration, double loss) {
        progress_.iteration(work.layer_idx, iteration, options.iters, loss);
        stop_if_asked(progress_);
      },
      untrained, pass_.scratch());
  for (const Linear l : model::kAllLinears) {
    const auto index = static_cast<size_t>(l);
    if (scheme[index]) result.quantized[index] = std::move(trained.weights[index]);
    if (replaced[index].size() != 0) std::swap(replaced[index], result.layer.weights[l]);
  }
  return trained.report;
}

std::string training_note(const std::vector<autoround::LayerReport>& trained) {
  std::string note;
  for (const autoround::LayerReport& report : trained) {
    if (report.losses.empty()) continue;
    char text[96];
    std::snprintf(text, sizeof text, "error %.5f -> %.5f (%+.0f %%)", report.rounding_loss,
                  report.loss, 100 * (report.loss / report.rounding_loss - 1));
    note = text;
  }
  return note;
}

void write_layer(const Plan& plan, int64_t layer_idx, const QuantizedLayer& layer,
                 save::AscendV1Writer& writer) {
  const model::LayerWeights& weights = layer.layer.weights;
  for (const Linear l : model::kAllLinears) {
    const std::string name = model::name_of(layer_idx, l);
    const auto index = static_cast<size_t>(l);
    if (plan.linear(layer_idx, l).scheme)
      writer.write_linear(name, layer.quantized[index],
                          layer.ranges[index] ? &*layer.ranges[index] : nullptr);
    else
      writer.write_float(name + ".weight", weights[l].view());
  }
  if (layer.layer.online.o_proj)
    writer.write_f32(model::name_of(layer_idx, Linear::kOProj) + ".heads_rotation",
                     layer.layer.online.o_proj->left.view());
  if (layer.layer.online.down_proj) {
    const std::string name = model::name_of(layer_idx, Linear::kDownProj);
    writer.write_f32(name + ".kronecker_rotation_m", layer.layer.online.down_proj->left.view());
    writer.write_f32(name + ".kronecker_rotation_n", layer.layer.online.down_proj->right.view());
  }
  const std::string prefix = "model.layers." + std::to_string(layer_idx) + ".";
  writer.write_float(prefix + "self_attn.q_norm.weight", weights.q_norm.view());
  writer.write_float(prefix + "self_attn.k_norm.weight", weights.k_norm.view());
  writer.write_float(prefix + "input_layernorm.weight", weights.input_layernorm.view());
  writer.write_float(prefix + "post_attention_layernorm.weight",
                     weights.post_attention_layernorm.view());
}

}  // namespace laos::pipeline
