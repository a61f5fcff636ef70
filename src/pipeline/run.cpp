#include "pipeline/run.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "cluster/alone.h"
#include "hf/model_tensors.h"
#include "pipeline/float_pass.h"
#include "pipeline/identity.h"
#include "pipeline/job_clock.h"
#include "pipeline/layer_steps.h"
#include "pipeline/record.h"
#include "pipeline/stage1.h"
#include "pipeline/stopwatch.h"
#include "pipeline/together.h"
#include "rotation/rotation.h"

namespace laos::pipeline {

namespace {

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

// Reads every weight once, so that a NaN in the last layer is not found after hours. Ranks take
// turns: each has its own copy only if it was told so, and will read all of it later.
void check_weights(const model::Checkpoint& checkpoint, const cluster::Cluster& cluster,
                   Progress& progress) {
  const int64_t layers = checkpoint.config().num_hidden_layers;
  progress.begin("check weights", layers + 1);
  for (int64_t i = 0; i < layers; ++i) {
    if (i % cluster.size() == cluster.rank()) (void)checkpoint.load_layer(i);
    progress.step(i + 1, "");
    stop_if_asked(progress);
  }
  if (cluster.rank() == 0) checkpoint.check_head_finite();
  progress.step(layers + 1, "");
}

// Passes on what the run tells, and leaves it in the work directory for `laos status`.
class ToldProgress : public Progress {
 public:
  ToldProgress(const Plan& plan, Progress& progress)
      : progress_(progress), clock_(part_costs(plan, costs_of(plan))) {}
  // From here on, until this is destroyed.
  void tell_in(const save::WorkDirectory& work) { work_ = &work; }

  void begin(const std::string& part, int64_t num_steps) override {
    progress_.begin(part, num_steps);
    clock_.begin(part, num_steps);
    told_ = {{"part", part}};
    tell();
  }
  void step(int64_t done, const std::string& note) override {
    progress_.step(done, note);
    clock_.step(done);
    told_ = {{"part", clock_.part()}};
    tell();
  }
  void kept(int64_t done) override {
    progress_.kept(done);
    clock_.kept(done);
  }
  void iteration(int64_t layer_idx, int64_t iteration, int64_t iters, double loss) override {
    progress_.iteration(layer_idx, iteration, iters, loss);
    clock_.iteration(layer_idx, iteration, iters);
    told_ = {{"part", clock_.part()},
             {"layer", layer_idx + 1},
             {"iteration", iteration},
             {"iterations", iters}};
    tell();
  }
  void share(double share, int64_t layer_idx, int64_t iteration, int64_t iters,
             double loss) override {
    progress_.share(share, layer_idx, iteration, iters, loss);
    clock_.share(share);
    told_ = {{"part", clock_.part()},
             {"layer", layer_idx + 1},
             {"iteration", iteration},
             {"iterations", iters}};
    tell();
  }
  bool stop() override { return progress_.stop(); }

 private:
  void tell() {
    const auto now = std::chrono::steady_clock::now();
    if (work_ == nullptr || (last_ && now - *last_ < std::chrono::seconds(2))) return;
    last_ = now;
    told_["share"] = clock_.part_share();
    if (const auto left = clock_.layer_seconds_left(); left && told_.contains("layer"))
      told_["layer_seconds_left"] = *left;
    if (const auto left = clock_.job_seconds_left()) told_["seconds_left"] = *left;
    work_->tell(told_.dump(1) + "\n");
  }

  Progress& progress_;
  JobClock clock_;
  const save::WorkDirectory* work_ = nullptr;
  Json told_;
  std::optional<std::chrono::steady_clock::time_point> last_;
};

class QuantizeRun {
 public:
  QuantizeRun(const Plan& plan, Progress& progress, cluster::Cluster& cluster)
      : plan_(plan),
        progress_(plan, progress),
        cluster_(cluster),
        checkpoint_(plan.checkpoint),
        config_(plan.checkpoint.config()) {}

  RunResult run() {
    try {
      open_writer();
      return run_opened();
    } catch (...) {
      // Before this rank leaves anything that others may fail for the lack of.
      cluster_.claim_failure();
      throw;
    }
  }

 private:
  // The first rank holds the output's lock; the others put finished layers beside its own.
  void open_writer() {
    std::string state;
    if (cluster_.rank() == 0) {
      save::CheckpointJob job = plan_.job;
      add_model_content(plan_, job.work, &progress_);
      writer_ = std::make_unique<save::CheckpointWriter>(std::move(job));
      progress_.tell_in(writer_->work());
      if (cluster_.size() > 1) writer_->work().share();
      state = writer_->work().state();
    }
    state = cluster_.broadcast(state);
    if (cluster_.rank() != 0) writer_ = std::make_unique<save::CheckpointWriter>(plan_.job, state);
  }

  RunResult run_opened() {
    RunResult result;
    const Stopwatch watch;
    {
      const TimeSheet::Span timed(&times_, kCheckWeightsTime);
      check_weights(checkpoint_, cluster_, progress_);
    }
    Stopwatch fit_watch;
    std::optional<Mat<float>> fitted;
    for (size_t i = 0; i < plan_.fits.size(); ++i) {
      result.fits.push_back(fit_or_restore(i));
      fitted = std::move(result.fits.back().rotation);
    }
    if (const rotation::RotateOptions* rotate = plan_.rotate()) {
      rotation_ = rotation::make_rotation(config_, *rotate, std::move(fitted));
      if (cluster_.rank() == 0 && (rotate->export_extra_info || plan_.options.checks))
        result.rotation = rotation_->residual.matrix();
      if (rotate->export_extra_info && cluster_.rank() == 0)
        writer_->write_global_rotation(std::as_const(result.rotation).view());
    }
    result.fit_seconds = fit_watch.seconds();
    const Stopwatch quantize_watch;
    pass_.emplace(plan_, rotation_ ? &*rotation_ : nullptr, scratch(), progress_, &times_);
    restore_layers();
    result.layers_kept = std::count_if(kept_.begin(), kept_.end(),
                                       [](const auto& note) { return note.has_value(); });
    std::optional<Together> together;
    if (cluster_.size() == 1) {
      quantize_layers(result.records);
    } else {
      together.emplace(plan_, *pass_, *writer_, cluster_, progress_, kept_);
      result.records = together->run();
    }
    for (const report::Layer& layer : result.records)
      result.layers.insert(result.layers.end(), layer.training.begin(), layer.training.end());
    result.quantize_seconds = quantize_watch.seconds();
    const Stopwatch save_watch;
    if (together) result.ranks = together->rank_records(watch.seconds());
    if (cluster_.rank() != 0) return result;
    if (together) restore(together->made_elsewhere());
    write_head();
    {
      const TimeSheet::Span timed(&times_, kCommitTime);
      writer_->commit();
    }
    result.save_seconds = save_watch.seconds();
    result.times = times_.parts();
    return result;
  }

  void restore(const std::vector<int64_t>& layers) {
    progress_.begin("merge layers", std::ssize(layers));
    for (size_t i = 0; i < layers.size(); ++i) {
      writer_->restore_layer(layers[i]);
      progress_.step(static_cast<int64_t>(i) + 1, "");
      stop_if_asked(progress_);
    }
  }

  rotation::FitResult fit_or_restore(size_t index) {
    const std::string part = save::part_name(kRotationPart, static_cast<int64_t>(index));
    save::WorkDirectory& work = writer_->work();
    const int64_t size = config_.hidden_size;
    const bool is_kept = cluster_.broadcast(work.find(part) != nullptr ? "1" : "0") == "1";
    if (is_kept) {
      rotation::FitResult result;
      if (cluster_.rank() == 0) {
        const io::TensorFiles files = io::TensorFiles::open_files({work.file_of(part)});
        const TensorView& tensor = files.at(kRotationPart);
        LAOS_ASSERT((tensor.dtype == DType::kF32 && tensor.shape == Shape{size, size}));
        result = fit_from(*work.find(part), model::rows_to_f32(tensor, 0, size));
      }
      broadcast(result.rotation, size, size, cluster_);
      return result;
    }
    rotation::FitResult result =
        fit_together(plan_, plan_.fits[index], scratch(), progress_, cluster_, &times_);
    if (cluster_.rank() != 0) return result;
    io::ShardedWriter file = work.create(part, {{kRotationPart, DType::kF32, {size, size}}});
    file.write(kRotationPart, std::as_bytes(std::span(std::as_const(result.rotation).data(),
                                                      static_cast<size_t>(size * size))));
    work.finish(part, std::move(file), to_text(result));
    return result;
  }

  // Layers that an earlier run finished go into the checkpoint at once. Other ranks learn which.
  void restore_layers() {
    kept_.resize(static_cast<size_t>(config_.num_hidden_layers));
    if (cluster_.rank() == 0) restore_kept();
    std::string flags;
    for (const auto& note : kept_) flags += note ? '1' : '0';
    flags = cluster_.broadcast(flags);
    for (size_t i = 0; i < kept_.size(); ++i)
      if (flags[i] == '1' && !kept_[i]) kept_[i] = "";
  }

  void restore_kept() {
    const std::vector<int64_t> finished = writer_->work().finished(kLayerPart);
    if (finished.empty()) return;
    progress_.begin("take finished layers", std::ssize(finished));
    int64_t done = 0;
    for (const int64_t i : finished) {
      kept_[static_cast<size_t>(i)] = writer_->restore_layer(i);
      progress_.step(++done, "");
      stop_if_asked(progress_);
    }
  }

  // Whether a layer from `layer_idx` on that is still to be quantized looks at activations, so that
  // hidden states must be carried there.
  bool needs_states_from(int64_t layer_idx) const {
    for (int64_t i = layer_idx; i < config_.num_hidden_layers; ++i)
      if (!is_kept(i) && plan_.reads_activations(i)) return true;
    return false;
  }
  bool is_kept(int64_t layer_idx) const {
    return kept_[static_cast<size_t>(layer_idx)].has_value();
  }

  // The states that enter the first layer that needs them, and that layer.
  int64_t first_states() {
    save::WorkDirectory& work = writer_->work();
    const std::vector<int64_t> kept = work.finished(kStatesPart);
    // States without one of the layers before them are of no use.
    if (!kept.empty() && std::all_of(kept_.begin(), kept_.begin() + kept.back(),
                                     [](const auto& note) { return note.has_value(); })) {
      const std::string part = save::part_name(kStatesPart, kept.back());
      const io::TensorFiles files = io::TensorFiles::open_files({work.file_of(part)});
      inputs_ = {};
      for (const std::vector<int32_t>& sample : *plan_.samples)
        inputs_.samples.append(std::ssize(sample));
      inputs_.rows = pass_->new_rows(inputs_.samples.num_tokens());
      const TensorView& states = files.at(kStatesPart);
      inputs_.rows.for_pieces([&](int64_t begin, int64_t end) {
        const Mat<float> rows = model::rows_to_f32(states, begin, end);
        std::copy_n(rows.data(), rows.size(), inputs_.rows.row(begin));
        files.drop_pages();
      });
      return kept.back();
    }
    inputs_ = pass_->embed(*plan_.samples);
    return 0;
  }

  // Where hidden states are kept.
  std::filesystem::path scratch() const {
    return plan_.options.scratch_path.empty() ? writer_->work().directory()
                                              : plan_.options.scratch_path;
  }

  // Makes the inputs of this layer durable in place of an earlier one's, if that pays.
  void keep_states(int64_t layer_idx) {
    states_seconds_ += pass_->take_seconds();
    if (states_seconds_ < plan_.options.keep_states_seconds) return;
    const TimeSheet::Span timed(&times_, kKeepTime);
    save::WorkDirectory& work = writer_->work();
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
      outputs_ = {inputs_.samples, pass_->new_rows(inputs_.rows.rows())};
    }
    progress_.begin(kQuantizePart, config_.num_hidden_layers);
    for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
      const Stopwatch watch;
      const bool needs_outputs = needs_states_from(i + 1);
      std::string note;
      if (is_kept(i)) {
        records.push_back(report::layer_from_json(*kept_[static_cast<size_t>(i)],
                                                  save::part_name(kLayerPart, i)));
        if (i >= first_layer && needs_outputs) pass_->forward(pass_->load(i), inputs_, &outputs_);
      } else {
        LayerStates states{.inputs = &inputs_, .outputs = &outputs_};
        QuantizedLayer layer = run_steps(plan_, *pass_, progress_, i, states, needs_outputs);
        note = note_of(layer);
        records.push_back(record_layer(plan_, i, layer, watch.seconds(), &times_));
        const TimeSheet::Span timed(&times_, kWriteTime);
        writer_->begin_layer(i);
        write_layer(plan_, i, layer, *writer_);
        writer_->finish_layer(report::to_json(records.back()));
      }
      if (i >= first_layer && needs_outputs) {
        std::swap(inputs_, outputs_);
        keep_states(i + 1);
      }
      if (is_kept(i))
        progress_.kept(i + 1);
      else
        progress_.step(i + 1, note);
      stop_if_asked(progress_);
    }
  }

  // embed_tokens, the final norm and lm_head, some rows at a time.
  void write_head() {
    const TimeSheet::Span timed(&times_, kHeadTime);
    const TensorView embed_tokens = checkpoint_.embed_tokens(), lm_head = checkpoint_.lm_head();
    Mat<float> gain = checkpoint_.final_norm();
    const int64_t pieces = (config_.vocab_size + kHeadRows - 1) / kHeadRows;
    progress_.begin(kSavePart, 2 * pieces);
    for (int64_t p = 0; p < 2 * pieces; ++p) {
      checkpoint_.drop_pages();
      const bool head = p >= pieces;
      const int64_t begin = p % pieces * kHeadRows,
                    end = std::min(config_.vocab_size, begin + kHeadRows);
      const std::string name = head ? hf::lm_head_name(config_) : hf::embed_tokens_name(config_);
      Mat<float> rows = model::rows_to_f32(head ? lm_head : embed_tokens, begin, end);
      if (rotation_) {
        if (head) rotation::fold_into_rows(gain, rows.view());
        rotation_->residual.apply_right(rows.view());
        require_finite_rotated(rows, name);
      }
      writer_->write_float_rows(name + ".weight", begin, std::as_const(rows).view());
      progress_.step(p + 1, "");
      stop_if_asked(progress_);
    }
    if (rotation_) std::fill_n(gain.data(), gain.size(), 1.0f);
    writer_->write_float(hf::final_norm_name(config_) + ".weight", std::as_const(gain).view());
  }

  const Plan& plan_;
  ToldProgress progress_;
  cluster::Cluster& cluster_;
  const model::Checkpoint& checkpoint_;
  const hf::Config& config_;
  std::unique_ptr<save::CheckpointWriter> writer_;
  std::vector<std::optional<std::string>> kept_;  // a layer's note when an earlier run finished it
  TimeSheet times_;
  std::optional<rotation::ModelRotation> rotation_;
  std::optional<FloatPass> pass_;
  model::HiddenStates inputs_, outputs_;  // of the layer at work, in the basis of pass_
  double states_seconds_ = 0;             // of computing them since they were last kept
};

}  // namespace

std::optional<rotation::ModelRotation> make_plan_rotation(const Plan& plan, Progress& progress,
                                                          cluster::Cluster& cluster) {
  std::optional<Mat<float>> fitted;
  for (const PlannedFit& planned : plan.fits)
    fitted = fit_together(plan, planned, plan.options.scratch_path, progress, cluster).rotation;
  if (plan.rotate() == nullptr) return std::nullopt;
  return rotation::make_rotation(plan.checkpoint.config(), *plan.rotate(), std::move(fitted));
}

RunResult run(const Plan& plan, Progress& progress, cluster::Cluster& cluster) {
  return QuantizeRun(plan, progress, cluster).run();
}

RunResult run(const Plan& plan, Progress& progress) {
  cluster::Alone alone;
  return run(plan, progress, alone);
}

}  // namespace laos::pipeline
