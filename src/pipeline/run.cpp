#include "pipeline/run.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/threads.h"
#include "rotation/rotation.h"

namespace laos::pipeline {

using model::Linear;

namespace {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Reads every weight once, so that a NaN in the last layer is not found after hours.
void check_weights(const model::Checkpoint& checkpoint, Progress& progress) {
  const int64_t layers = checkpoint.config().num_hidden_layers;
  progress.begin("check weights", layers + 1);
  for (int64_t i = 0; i < layers; ++i) {
    (void)checkpoint.load_layer(i);
    progress.step(i + 1, "");
  }
  checkpoint.check_head_finite();
  progress.step(layers + 1, "");
}

// Stage 1: the float model with folded norms, layer by layer.
rotation::FitResult fit(const model::Checkpoint& checkpoint, const PlannedFit& planned,
                        Progress& progress) {
  const hf::Config& config = checkpoint.config();
  rotation::ActivationRows rows(config, planned.options);
  model::HiddenStates states = model::embed(checkpoint.embed_tokens(), *planned.samples);
  const model::Rope<float> rope(config, model::longest_sample(states.samples));
  {
    model::LayerSaved<float> saved(config, model::largest_piece(states.samples, kForwardTokens),
                                   false);
    progress.begin("collect activations", config.num_hidden_layers);
    for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
      model::LayerWeights weights = checkpoint.load_layer(i);
      rotation::fold_norms(weights);
      model::FloatLinears<float> linears(model::views_of(weights));
      model::forward_all(config, model::norms_of(weights), linears, rope, states, kForwardTokens,
                         saved, states,
                         [&](const model::SampleRange&, const model::Ragged& batch,
                             model::LayerSaved<float>& piece) { rows.observe(batch, piece); });
      rows.finish_layer();
      progress.step(i + 1, "");
    }
  }
  states = {};
  progress.begin("fit rotation", planned.options.steps);
  return rotation::fit_rotation(rows.take(), planned.options, [&](const rotation::FitStep& step) {
    char note[64];
    std::snprintf(note, sizeof note, "loss %.6g", step.loss);
    if (step.step > 0) progress.step(step.step, note);
  });
}

class QuantizeRun {
 public:
  QuantizeRun(const Plan& plan, Progress& progress)
      : plan_(plan),
        progress_(progress),
        checkpoint_(plan.checkpoint),
        config_(plan.checkpoint.config()),
        writer_(plan.job) {}

  RunResult run() {
    RunResult result;
    check_weights(checkpoint_, progress_);
    Stopwatch fit_watch;
    std::optional<Mat<float>> fitted;
    for (const PlannedFit& planned : plan_.fits) {
      result.fits.push_back(fit(checkpoint_, planned, progress_));
      fitted = std::move(result.fits.back().rotation);
    }
    if (plan_.rotate)
      rotation_ = rotation::make_rotation(config_, *plan_.rotate, std::move(fitted));
    result.fit_seconds = fit_watch.seconds();
    const Stopwatch quantize_watch;
    quantize_layers(result.layers);
    result.quantize_seconds = quantize_watch.seconds();
    const Stopwatch save_watch;
    write_head();
    writer_.commit();
    result.save_seconds = save_watch.seconds();
    return result;
  }

 private:
  void quantize_layers(std::vector<autoround::LayerReport>& reports) {
    const bool trains = plan_.trains_from(0);
    model::HiddenStates inputs, outputs;
    if (trains) {
      inputs = model::embed(checkpoint_.embed_tokens(), *plan_.samples);
      if (rotation_) rotation_->residual.apply_right(inputs.rows.view());
      outputs = {inputs.samples, Mat<float>(inputs.rows.rows(), config_.hidden_size)};
    }
    const model::Rope<float> rope(config_,
                                  std::max<int64_t>(1, model::longest_sample(inputs.samples)));
    progress_.begin("quantize", config_.num_hidden_layers);
    for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
      model::LayerWeights weights = checkpoint_.load_layer(i);
      if (rotation_) {
        rotation::fold_norms(weights);
        rotation::rotate_layer(config_, *rotation_, weights);
      }
      if (plan_.trains_from(i)) {
        model::LayerSaved<float> saved(config_,
                                       model::largest_piece(inputs.samples, kForwardTokens), false);
        model::FloatLinears<float> linears(model::views_of(weights));
        model::forward_all(config_, model::norms_of(weights), linears, rope, inputs, kForwardTokens,
                           saved, outputs);
      }
      autoround::LayerScheme scheme;
      for (const Linear l : model::kAllLinears)
        if (const std::optional<quant::LinearScheme>& planned = planned_scheme(i, l))
          scheme[static_cast<size_t>(l)] = planned->weight;
      const autoround::LayerResult trained = autoround::train_layer(
          config_, weights, scheme, plan_.train.value_or(autoround::TrainOptions{}), rope, inputs,
          outputs, plan_.options.seed, i, [&](int64_t iteration, double loss) {
            progress_.iteration(i, iteration, plan_.train->iters, loss);
          });
      write_layer(i, weights, trained.weights);
      progress_.step(i + 1, note_of(trained.report));
      reports.push_back(trained.report);
      std::swap(inputs, outputs);
    }
  }

  static std::string note_of(const autoround::LayerReport& report) {
    if (report.losses.empty()) return "";
    char note[96];
    std::snprintf(note, sizeof note, "error %.5f -> %.5f (%+.0f %%)", report.rounding_loss,
                  report.loss, 100 * (report.loss / report.rounding_loss - 1));
    return note;
  }

  const std::optional<quant::LinearScheme>& planned_scheme(int64_t layer_idx, Linear l) const {
    return plan_
        .linears[static_cast<size_t>(layer_idx * model::kNumLinears) + static_cast<size_t>(l)]
        .scheme;
  }

  void write_layer(int64_t layer_idx, const model::LayerWeights& weights,
                   const autoround::TrainableLinears::Snapshot& quantized) {
    for (const Linear l : model::kAllLinears) {
      const std::string name = model::name_of(layer_idx, l);
      const quant::IntWeight& weight = quantized[static_cast<size_t>(l)];
      if (planned_scheme(layer_idx, l))
        writer_.write_linear(name, weight.q.view(), weight.scale);
      else
        writer_.write_float(name + ".weight", weights[l].view());
    }
    const std::string prefix = "model.layers." + std::to_string(layer_idx) + ".";
    writer_.write_float(prefix + "self_attn.q_norm.weight", weights.q_norm.view());
    writer_.write_float(prefix + "self_attn.k_norm.weight", weights.k_norm.view());
    writer_.write_float(prefix + "input_layernorm.weight", weights.input_layernorm.view());
    writer_.write_float(prefix + "post_attention_layernorm.weight",
                        weights.post_attention_layernorm.view());
  }

  // embed_tokens, the final norm and lm_head, some rows at a time.
  void write_head() {
    const TensorView embed_tokens = checkpoint_.embed_tokens(), lm_head = checkpoint_.lm_head();
    Mat<float> gain = checkpoint_.final_norm();
    const int64_t pieces = (config_.vocab_size + kHeadRows - 1) / kHeadRows;
    progress_.begin("save", 2 * pieces);
    for (int64_t p = 0; p < 2 * pieces; ++p) {
      const bool head = p >= pieces;
      const int64_t begin = p % pieces * kHeadRows,
                    end = std::min(config_.vocab_size, begin + kHeadRows);
      Mat<float> rows = model::rows_to_f32(head ? lm_head : embed_tokens, begin, end);
      if (rotation_) {
        if (head) rotation::fold_into_rows(gain, rows.view());
        rotation_->residual.apply_right(rows.view());
      }
      writer_.write_float_rows(head ? "lm_head.weight" : "model.embed_tokens.weight", begin,
                               std::as_const(rows).view());
      progress_.step(p + 1, "");
    }
    if (rotation_) std::fill_n(gain.data(), gain.size(), 1.0f);
    writer_.write_float("model.norm.weight", std::as_const(gain).view());
  }

  const Plan& plan_;
  Progress& progress_;
  const model::Checkpoint& checkpoint_;
  const hf::Config& config_;
  save::AscendV1Writer writer_;
  std::optional<rotation::ModelRotation> rotation_;
};

}  // namespace

RunResult run(const Plan& plan, Progress& progress) { return QuantizeRun(plan, progress).run(); }

}  // namespace laos::pipeline
