#include "pipeline/run.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "core/threads.h"
#include "gptq/quantize_layer.h"
#include "model/activation_stats.h"
#include "model/online_rotation.h"
#include "pipeline/identity.h"
#include "pipeline/record.h"
#include "quant/int_weight.h"
#include "rotation/rotation.h"
#include "smooth/smooth.h"

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

void stop_if_asked(Progress& progress) {
  if (progress.stop())
    throw Error(ErrorCode::kStopped,
                {.what = "stopped before the checkpoint was whole", .where = "", .fix = ""});
}

// --- what the files of finished parts say besides tensors ------------------------------------

using Json = nlohmann::json;

std::string to_text(const rotation::FitResult& fit) {
  Json steps = Json::array();
  for (const rotation::FitStep& step : fit.steps)
    steps.push_back({{"step", step.step}, {"loss", step.loss}});
  return Json{{"best_step", fit.best_step}, {"orthogonality", fit.orthogonality}, {"steps", steps}}
      .dump();
}

rotation::FitResult fit_from(const std::string& text, Mat<float> rotation) {
  const Json json = Json::parse(text);
  rotation::FitResult fit{.rotation = std::move(rotation),
                          .best_step = json.at("best_step").get<int64_t>(),
                          .steps = {},
                          .orthogonality = json.at("orthogonality").get<double>()};
  for (const Json& step : json.at("steps"))
    fit.steps.push_back({step.at("step").get<int64_t>(), step.at("loss").get<double>()});
  return fit;
}

// Reads every weight once, so that a NaN in the last layer is not found after hours.
void check_weights(const model::Checkpoint& checkpoint, Progress& progress) {
  const int64_t layers = checkpoint.config().num_hidden_layers;
  progress.begin("check weights", layers + 1);
  for (int64_t i = 0; i < layers; ++i) {
    (void)checkpoint.load_layer(i);
    progress.step(i + 1, "");
    stop_if_asked(progress);
  }
  checkpoint.check_head_finite();
  progress.step(layers + 1, "");
}

// Stage 1: the float model with folded norms, layer by layer. Hidden states are kept in `scratch`.
rotation::FitResult fit(const model::Checkpoint& checkpoint, const PlannedFit& planned,
                        const std::filesystem::path& scratch, Progress& progress) {
  const hf::Config& config = checkpoint.config();
  model::HiddenStates states = model::embed(checkpoint.embed_tokens(), *planned.samples, scratch);
  checkpoint.drop_pages();
  rotation::ActivationRows rows(config, planned.options, states.samples, planned.chunks);
  const model::Rope<float> rope(config, model::longest_sample(states.samples));
  {
    model::LayerSaved<float> saved(config, model::largest_piece(states.samples, kForwardTokens),
                                   false, model::longest_sample(states.samples));
    progress.begin("collect activations", config.num_hidden_layers);
    for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
      model::LayerWeights weights = checkpoint.load_layer(i);
      rotation::fold_norms(weights);
      model::FloatLinears<float> linears(model::views_of(weights));
      model::forward_all(
          config, model::norms_of(weights), linears, rope, states, kForwardTokens, saved, states,
          [&](const model::Piece&, const model::Ragged& batch, model::LayerSaved<float>& piece) {
            rows.observe(batch, piece);
            stop_if_asked(progress);
          });
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
    stop_if_asked(progress);
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
    for (size_t i = 0; i < plan_.fits.size(); ++i) {
      result.fits.push_back(fit_or_restore(i));
      fitted = std::move(result.fits.back().rotation);
    }
    if (const rotation::RotateOptions* rotate = plan_.rotate()) {
      rotation_ = rotation::make_rotation(config_, *rotate, std::move(fitted));
      if (rotate->export_extra_info) {
        const Mat<float> matrix = rotation_->residual.matrix();
        writer_.write_global_rotation(matrix.view());
      }
    }
    result.fit_seconds = fit_watch.seconds();
    const Stopwatch quantize_watch;
    restore_layers();
    result.layers_kept = std::count_if(kept_.begin(), kept_.end(),
                                       [](const auto& note) { return note.has_value(); });
    quantize_layers(result.records);
    for (const report::Layer& layer : result.records)
      result.layers.insert(result.layers.end(), layer.training.begin(), layer.training.end());
    result.quantize_seconds = quantize_watch.seconds();
    const Stopwatch save_watch;
    write_head();
    writer_.commit();
    result.save_seconds = save_watch.seconds();
    return result;
  }

 private:
  // A decoder layer on its way through the steps.
  struct LayerAtWork {
    int64_t layer_idx;
    model::LayerWeights weights;  // float; what is quantized stays here as it was
    model::OnlineRotation online;
    autoround::TrainableLinears::Snapshot quantized;
    std::array<std::optional<quant::StaticRange>, model::kNumLinears> ranges;
    // In the basis that the layer is in now.
    model::HiddenStates* inputs;
    model::HiddenStates* outputs;
    bool has_outputs = false;
    model::HiddenStates rotated_inputs, rotated_outputs;  // used where the rotation comes late
  };

  rotation::FitResult fit_or_restore(size_t index) {
    const std::string part = save::part_name(kRotationPart, static_cast<int64_t>(index));
    save::WorkDirectory& work = writer_.work();
    const int64_t size = config_.hidden_size;
    if (const std::string* note = work.find(part)) {
      const io::TensorFiles files = io::TensorFiles::open_files({work.file_of(part)});
      const TensorView& tensor = files.at(kRotationPart);
      LAOS_ASSERT((tensor.dtype == DType::kF32 && tensor.shape == Shape{size, size}));
      return fit_from(*note, model::rows_to_f32(tensor, 0, size));
    }
    rotation::FitResult result = fit(checkpoint_, plan_.fits[index], scratch(), progress_);
    io::ShardedWriter file = work.create(part, {{kRotationPart, DType::kF32, {size, size}}});
    file.write(kRotationPart, std::as_bytes(std::span(std::as_const(result.rotation).data(),
                                                      static_cast<size_t>(size * size))));
    work.finish(part, std::move(file), to_text(result));
    return result;
  }

  // Layers that an earlier run finished go into the checkpoint at once.
  void restore_layers() {
    kept_.resize(static_cast<size_t>(config_.num_hidden_layers));
    if (writer_.work().finished(kLayerPart).empty()) return;
    progress_.begin("take finished layers", config_.num_hidden_layers);
    for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
      kept_[static_cast<size_t>(i)] = writer_.restore_layer(i);
      progress_.step(i + 1, "");
      stop_if_asked(progress_);
    }
  }

  // Whether a layer from `layer_idx` on that is still to be quantized looks at activations, so that
  // hidden states must be carried there.
  bool needs_states_from(int64_t layer_idx) const {
    for (int64_t i = layer_idx; i < config_.num_hidden_layers; ++i)
      for (size_t step = 0; step < plan_.steps.size() && !is_kept(i); ++step)
        if (plan_.reads_activations(step, i)) return true;
    return false;
  }
  bool is_kept(int64_t layer_idx) const {
    return kept_[static_cast<size_t>(layer_idx)].has_value();
  }

  // The states that enter the first layer that needs them, and that layer.
  int64_t first_states() {
    save::WorkDirectory& work = writer_.work();
    const std::vector<int64_t> kept = work.finished(kStatesPart);
    // States without one of the layers before them are of no use.
    if (!kept.empty() && std::all_of(kept_.begin(), kept_.begin() + kept.back(),
                                     [](const auto& note) { return note.has_value(); })) {
      const std::string part = save::part_name(kStatesPart, kept.back());
      const io::TensorFiles files = io::TensorFiles::open_files({work.file_of(part)});
      inputs_ = {};
      for (const std::vector<int32_t>& sample : *plan_.samples)
        inputs_.samples.append(std::ssize(sample));
      inputs_.rows = new_rows(inputs_.samples.num_tokens());
      const TensorView& states = files.at(kStatesPart);
      inputs_.rows.for_pieces([&](int64_t begin, int64_t end) {
        const Mat<float> rows = model::rows_to_f32(states, begin, end);
        std::copy_n(rows.data(), rows.size(), inputs_.rows.row(begin));
        files.drop_pages();
      });
      return kept.back();
    }
    inputs_ = model::embed(checkpoint_.embed_tokens(), *plan_.samples, scratch());
    checkpoint_.drop_pages();
    if (rotates_first())
      inputs_.rows.for_pieces([&](int64_t begin, int64_t end) {
        rotation_->residual.apply_right(inputs_.rows.view().slice_rows(begin, end));
      });
    return 0;
  }

  // Where hidden states are kept.
  std::filesystem::path scratch() {
    return plan_.options.scratch_path.empty() ? writer_.work().directory()
                                              : plan_.options.scratch_path;
  }
  model::TokenRows new_rows(int64_t num_tokens) {
    return model::TokenRows(num_tokens, config_.hidden_size, scratch());
  }

  // Makes the inputs of this layer durable in place of an earlier one's, if that pays.
  void keep_states(int64_t layer_idx) {
    if (states_seconds_ < plan_.options.keep_states_seconds) return;
    save::WorkDirectory& work = writer_.work();
    const std::vector<int64_t> older = work.finished(kStatesPart);
    const std::string part = save::part_name(kStatesPart, layer_idx);
    io::ShardedWriter file =
        work.create(part, {{kStatesPart, DType::kF32, {inputs_.rows.rows(), inputs_.rows.cols()}}});
    inputs_.rows.for_pieces([&](int64_t begin, int64_t end) {
      file.write_part(
          kStatesPart, begin * inputs_.rows.cols() * 4,
          std::as_bytes(std::span(inputs_.rows.row(begin),
                                  static_cast<size_t>((end - begin) * inputs_.rows.cols()))));
    });
    work.finish(part, std::move(file), "");
    for (const int64_t i : older) work.forget(save::part_name(kStatesPart, i));
    states_seconds_ = 0;
  }

  void quantize_layers(std::vector<report::Layer>& records) {
    int64_t first_layer = 0;
    if (needs_states_from(0)) {
      first_layer = first_states();
      outputs_ = {inputs_.samples, new_rows(inputs_.rows.rows())};
    }
    rope_.emplace(config_, std::max<int64_t>(1, model::longest_sample(inputs_.samples)));
    progress_.begin("quantize", config_.num_hidden_layers);
    for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
      const Stopwatch watch;
      if (is_kept(i)) {
        records.push_back(report::layer_from_json(*kept_[static_cast<size_t>(i)],
                                                  save::part_name(kLayerPart, i)));
        if (i < first_layer || !needs_states_from(i + 1)) {
          progress_.step(i + 1, "");
          continue;
        }
      }
      std::vector<autoround::LayerReport> trained;
      LayerAtWork layer{.layer_idx = i,
                        .weights = checkpoint_.load_layer(i),
                        .online = {},
                        .quantized = {},
                        .ranges = {},
                        .inputs = &inputs_,
                        .outputs = &outputs_,
                        .rotated_inputs = {},
                        .rotated_outputs = {}};
      std::string note;
      for (size_t step = 0; step < plan_.steps.size(); ++step) {
        if (const auto* smooth = std::get_if<SmoothStep>(&plan_.steps[step])) {
          run_smooth(layer, step, *smooth);
        } else if (std::holds_alternative<RotateStep>(plan_.steps[step])) {
          run_rotate(layer, step);
        } else if (const auto* train = std::get_if<TrainStep>(&plan_.steps[step])) {
          if (is_kept(i)) {
            run_float_for_train(layer, step);
            continue;
          }
          trained.push_back(run_train(layer, step, train->options));
          if (const std::string text = note_of(trained.back()); !text.empty()) note = text;
        } else {
          run_round(layer, step, std::get<RoundStep>(plan_.steps[step]));
        }
      }
      if (needs_states_from(i + 1)) {
        if (!layer.has_outputs) run_float(layer, nullptr);
        std::swap(inputs_, outputs_);
      }
      if (!is_kept(i)) {
        records.push_back(record_layer(plan_, i, layer.weights, layer.quantized, std::move(trained),
                                       watch.seconds()));
        writer_.begin_layer(i);
        write_layer(layer);
        writer_.finish_layer(report::to_json(records.back()));
      }
      if (needs_states_from(i + 1)) keep_states(i + 1);
      progress_.step(i + 1, note);
      stop_if_asked(progress_);
    }
  }

  // Whether no step looks at activations before they are rotated, so that hidden states are kept in
  // the rotated basis from the embedding on.
  bool rotates_first() const {
    for (size_t step = 0; step < plan_.steps.size(); ++step) {
      if (std::holds_alternative<RotateStep>(plan_.steps[step])) return true;
      for (int64_t i = 0; i < config_.num_hidden_layers; ++i)
        if (plan_.reads_activations(step, i)) return false;
    }
    return false;
  }

  using Observe = std::function<void(const model::Ragged&, const model::LayerSaved<float>&)>;

  // The float layer over all samples: its outputs, and what `observe` wants to see unless it is
  // null.
  void run_float(LayerAtWork& layer, const Observe& observe) {
    const Stopwatch watch;
    model::LayerSaved<float> saved(config_,
                                   model::largest_piece(layer.inputs->samples, kForwardTokens),
                                   false, model::longest_sample(layer.inputs->samples));
    model::FloatLinears<float> plain(model::views_of(layer.weights));
    model::OnlineLinears linears(layer.online, plain);
    const auto show = [&](const model::Piece&, const model::Ragged& batch,
                          model::LayerSaved<float>& piece) {
      if (observe) observe(batch, piece);
      stop_if_asked(progress_);
    };
    model::forward_all(config_, model::norms_of(layer.weights), linears, *rope_, *layer.inputs,
                       kForwardTokens, saved, *layer.outputs, show);
    layer.has_outputs = true;
    states_seconds_ += watch.seconds();
  }

  void run_smooth(LayerAtWork& layer, size_t step, const SmoothStep& smooth) {
    if (!plan_.reads_activations(step, layer.layer_idx)) return;
    model::ActivationStats stats(config_, layer.online);
    run_float(layer, [&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
      stats.observe(batch, piece);
    });
    for (const smooth::Pair pair : smooth::kAllPairs)
      if (smooth.sources.contains(smooth::source_of(layer.layer_idx, pair)))
        smooth::smooth_pair(config_, smooth.options, pair, stats, layer.weights);
  }

  void run_rotate(LayerAtWork& layer, size_t step) {
    bool read_later = false;
    for (size_t later = step + 1; later < plan_.steps.size(); ++later)
      read_later = read_later || plan_.reads_activations(later, layer.layer_idx);
    const bool is_late = !rotates_first();
    // The chain of hidden states stays in the basis that it began in.
    if (is_late && !layer.has_outputs && (read_later || needs_states_from(layer.layer_idx + 1)))
      run_float(layer, nullptr);
    if (is_late && read_later) {
      layer.rotated_inputs = rotated(*layer.inputs);
      layer.rotated_outputs = rotated(*layer.outputs);
      layer.inputs = &layer.rotated_inputs;
      layer.outputs = &layer.rotated_outputs;
    }
    rotation::fold_norms(layer.weights);
    rotation::rotate_layer(config_, *rotation_, layer.weights);
    layer.online = rotation_->online_of(layer.layer_idx);
    rotation::rotate_online(layer.online, layer.weights);
  }

  model::HiddenStates rotated(const model::HiddenStates& states) {
    model::HiddenStates result{states.samples, new_rows(states.rows.rows())};
    result.rows.for_pieces([&](int64_t begin, int64_t end) {
      std::copy_n(states.rows.row(begin), (end - begin) * config_.hidden_size,
                  result.rows.row(begin));
      states.rows.drop(begin, end);
      rotation_->residual.apply_right(result.rows.view().slice_rows(begin, end));
    });
    return result;
  }

  // linear_quant and gptq_quant: codes from the weights and from one look at the float layer's
  // activations.
  void run_round(LayerAtWork& layer, size_t step, const RoundStep& round) {
    gptq::LayerScheme scheme;
    for (const Linear l : model::kAllLinears) {
      const PlannedLinear& planned = plan_.linear(layer.layer_idx, l);
      if (planned.scheme && planned.step == step) scheme[static_cast<size_t>(l)] = planned.scheme;
    }
    model::ActivationStats stats(config_, layer.online);
    std::optional<gptq::InputGrams> grams;
    if (round.gptq) grams.emplace(config_, scheme, layer.online, round.gptq->refit);
    if (plan_.reads_activations(step, layer.layer_idx))
      run_float(layer, [&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
        stats.observe(batch, piece);
        if (grams) grams->observe(piece, batch.num_tokens());
      });
    if (is_kept(layer.layer_idx)) return;
    if (grams) {
      auto solved = gptq::quantize_layer(layer.weights, scheme, *round.gptq, *grams);
      for (size_t l = 0; l < solved.size(); ++l)
        if (scheme[l]) layer.quantized[l] = std::move(solved[l]);
    }
    for (const model::LinearGroup group : model::kAllLinearGroups)
      for (const Linear l : model::linears_of(group)) {
        const auto index = static_cast<size_t>(l);
        if (!scheme[index]) continue;
        if (!grams)
          layer.quantized[index] =
              quant::quantize_rtn(layer.weights[l].view(), scheme[index]->weight);
        const quant::ActSpec& act = scheme[index]->act;
        if (act.is_static) layer.ranges[index] = range_of(stats[group], act);
      }
  }

  quant::StaticRange range_of(const model::ActivationStats::Group& stats,
                              const quant::ActSpec& act) const {
    const auto count = static_cast<double>(stats.num_samples);
    const float min = act.mean_range ? static_cast<float>(stats.min_sum / count) : stats.min;
    const float max = act.mean_range ? static_cast<float>(stats.max_sum / count) : stats.max;
    return quant::static_range(min, max, act, config_.dtype);
  }

  void run_float_for_train(LayerAtWork& layer, size_t step) {
    if (plan_.reads_activations(step, layer.layer_idx) && !layer.has_outputs)
      run_float(layer, nullptr);
  }

  autoround::LayerReport run_train(LayerAtWork& layer, size_t step,
                                   const autoround::TrainOptions& options) {
    autoround::LayerScheme scheme;
    autoround::ActBits untrained = {};
    // Linears that an earlier step quantized act as they are now, so that training makes up for it.
    std::array<Mat<float>, model::kNumLinears> replaced;
    run_float_for_train(layer, step);
    for (const Linear l : model::kAllLinears) {
      const PlannedLinear& planned = plan_.linear(layer.layer_idx, l);
      const auto index = static_cast<size_t>(l);
      if (planned.scheme && planned.step == step) {
        scheme[index] = planned.scheme;
      } else if (layer.quantized[index].q.size() != 0) {
        const quant::ActSpec& act = planned.scheme->act;
        untrained[index] = act.is_static || act.bits > 8 ? 0 : act.bits;
        replaced[index] = quant::dequantize(layer.quantized[index]);
        std::swap(replaced[index], layer.weights[l]);
      }
    }
    autoround::LayerResult trained = autoround::train_layer(
        config_, layer.weights, layer.online, scheme, options, *rope_, *layer.inputs,
        *layer.outputs, plan_.options.seed, layer.layer_idx,
        [&](int64_t iteration, double loss) {
          progress_.iteration(layer.layer_idx, iteration, options.iters, loss);
          stop_if_asked(progress_);
        },
        untrained);
    for (const Linear l : model::kAllLinears) {
      const auto index = static_cast<size_t>(l);
      if (scheme[index]) layer.quantized[index] = std::move(trained.weights[index]);
      if (replaced[index].size() != 0) std::swap(replaced[index], layer.weights[l]);
    }
    return trained.report;
  }

  static std::string note_of(const autoround::LayerReport& report) {
    if (report.losses.empty()) return "";
    char note[96];
    std::snprintf(note, sizeof note, "error %.5f -> %.5f (%+.0f %%)", report.rounding_loss,
                  report.loss, 100 * (report.loss / report.rounding_loss - 1));
    return note;
  }

  void write_layer(const LayerAtWork& layer) {
    const model::LayerWeights& weights = layer.weights;
    for (const Linear l : model::kAllLinears) {
      const std::string name = model::name_of(layer.layer_idx, l);
      const auto index = static_cast<size_t>(l);
      if (plan_.linear(layer.layer_idx, l).scheme)
        writer_.write_linear(name, layer.quantized[index],
                             layer.ranges[index] ? &*layer.ranges[index] : nullptr);
      else
        writer_.write_float(name + ".weight", weights[l].view());
    }
    if (layer.online.o_proj)
      writer_.write_f32(model::name_of(layer.layer_idx, Linear::kOProj) + ".heads_rotation",
                        layer.online.o_proj->left.view());
    if (layer.online.down_proj) {
      const std::string name = model::name_of(layer.layer_idx, Linear::kDownProj);
      writer_.write_f32(name + ".kronecker_rotation_m", layer.online.down_proj->left.view());
      writer_.write_f32(name + ".kronecker_rotation_n", layer.online.down_proj->right.view());
    }
    const std::string prefix = "model.layers." + std::to_string(layer.layer_idx) + ".";
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
      checkpoint_.drop_pages();
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
      stop_if_asked(progress_);
    }
    if (rotation_) std::fill_n(gain.data(), gain.size(), 1.0f);
    writer_.write_float("model.norm.weight", std::as_const(gain).view());
  }

  const Plan& plan_;
  Progress& progress_;
  const model::Checkpoint& checkpoint_;
  const hf::Config& config_;
  save::AscendV1Writer writer_;
  std::vector<std::optional<std::string>> kept_;  // a layer's note when an earlier run finished it
  std::optional<rotation::ModelRotation> rotation_;
  std::optional<model::Rope<float>> rope_;
  model::HiddenStates inputs_, outputs_;  // of the layer at work, rotated when rotates_first()
  double states_seconds_ = 0;             // of computing them since they were last kept
};

}  // namespace

std::optional<rotation::ModelRotation> make_plan_rotation(const Plan& plan, Progress& progress) {
  std::optional<Mat<float>> fitted;
  for (const PlannedFit& planned : plan.fits)
    fitted = fit(plan.checkpoint, planned, plan.options.scratch_path, progress).rotation;
  if (plan.rotate() == nullptr) return std::nullopt;
  return rotation::make_rotation(plan.checkpoint.config(), *plan.rotate(), std::move(fitted));
}

RunResult run(const Plan& plan, Progress& progress) { return QuantizeRun(plan, progress).run(); }

}  // namespace laos::pipeline
