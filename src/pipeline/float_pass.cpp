#include "pipeline/float_pass.h"

#include <algorithm>
#include <utility>

#include "model/pass_linears.h"
#include "pipeline/stopwatch.h"

namespace laos::pipeline {
namespace {

// Whether no step looks at activations before they are rotated.
bool plan_rotates_first(const Plan& plan) {
  for (const auto& step : plan.steps) {
    if (step->rotates() != nullptr) return true;
    for (int64_t i = 0; i < plan.checkpoint.config().num_hidden_layers; ++i)
      if (step->reads(plan, i)) return false;
  }
  return false;
}

int64_t longest_of(const Samples& samples) {
  int64_t longest = 1;
  for (const std::vector<int32_t>& sample : samples)
    longest = std::max(longest, std::ssize(sample));
  return longest;
}

}  // namespace

void stop_if_asked(Progress& progress) {
  if (progress.stop())
    throw Error(ErrorCode::kStopped,
                {.what = "stopped before the checkpoint was whole", .where = "", .fix = ""});
}

void require_finite(const Plan& plan, int64_t layer_idx, const model::LayerSaved<float>& saved,
                    int64_t num_tokens) {
  for (const model::LinearGroup group : model::groups_in(plan.checkpoint.config(), layer_idx)) {
    if (model::is_finite(saved.read_by(group, num_tokens))) continue;
    throw Error(ErrorCode::kNumeric,
                {.what = "the float model's activations become NaN or infinite, first in what " +
                         model::name_of(plan.checkpoint.config(), layer_idx,
                                        model::linears_of(group).front()) +
                         " reads",
                 .where = plan.options.model_path.string(),
                 .fix = "look at the weights in front of it: the checkpoint is damaged"});
  }
}

void require_finite_rotated(const Mat<float>& weight, const std::string& name) {
  if (model::is_finite(weight.view())) return;
  throw Error(ErrorCode::kNumeric,
              {.what = "weights become NaN or infinite where they are rotated",
               .where = name + ".weight",
               .fix = "look at their sizes: the checkpoint is damaged; otherwise use a recipe "
                      "that does not rotate"});
}

FloatPass::FloatPass(const Plan& plan, const rotation::ModelRotation* rotation,
                     std::filesystem::path scratch, Progress& progress, TimeSheet* times)
    : plan_(plan),
      rotation_(rotation),
      scratch_(std::move(scratch)),
      progress_(progress),
      times_(times),
      config_(plan.checkpoint.config()),
      rotates_first_(plan_rotates_first(plan)),
      rope_(config_, longest_of(*plan.samples)) {}

model::HiddenStates FloatPass::embed(const Samples& samples) const {
  const TimeSheet::Span timed(times_, kEmbedTime);
  model::HiddenStates states = model::embed(plan_.checkpoint.embed_tokens(), samples, scratch_);
  plan_.checkpoint.drop_pages();
  if (rotates_first_)
    for (int64_t s = 0; s < states.samples.num_sequences(); ++s) rotate_sample(states, s);
  return states;
}

FloatLayer FloatPass::read(int64_t layer_idx) {
  const TimeSheet::Span timed(times_, kReadTime);
  FloatLayer layer = {.weights = plan_.checkpoint.load_layer(layer_idx), .layer_idx = layer_idx};
  read_ahead_.start(plan_.checkpoint.bytes_of_layer(layer_idx + 1));
  return layer;
}

FloatLayer FloatPass::load(int64_t layer_idx) {
  FloatLayer layer = read(layer_idx);
  if (rotates_first_) rotate(layer_idx, layer);
  return layer;
}

void rotate_float(const hf::Config& config, const rotation::ModelRotation& rotation,
                  int64_t layer_idx, FloatLayer& layer) {
  rotation::fold_norms(layer.weights);
  rotation::rotate_layer(config, rotation, layer.weights);
  layer.online = rotation.online_of(layer_idx);
  rotation::rotate_online(layer.online, layer.weights);
  for (const model::Linear l : model::linears_in(config, layer_idx))
    require_finite_rotated(layer.weights[l], model::name_of(config, layer_idx, l));
}

void FloatPass::rotate(int64_t layer_idx, FloatLayer& layer) const {
  LAOS_ASSERT(rotation_ != nullptr);
  const TimeSheet::Span timed(times_, kRotateTime);
  rotate_float(config_, *rotation_, layer_idx, layer);
}

model::HiddenStates FloatPass::rotated(const model::HiddenStates& states,
                                       const std::vector<int64_t>* present) const {
  const TimeSheet::Span timed(times_, kRotateTime);
  model::HiddenStates result{states.samples, new_rows(states.rows.rows())};
  const auto take = [&](int64_t s) {
    const MatView<const float> from = states.of_sample(s);
    std::copy_n(from.data, from.rows * from.cols, result.of_sample(s).data);
    states.rows.drop(states.samples.offsets[static_cast<size_t>(s)],
                     states.samples.offsets[static_cast<size_t>(s + 1)]);
    rotate_sample(result, s);
  };
  if (present == nullptr)
    for (int64_t s = 0; s < states.samples.num_sequences(); ++s) take(s);
  else
    for (const int64_t s : *present) take(s);
  return result;
}

// Each sample by itself, whatever others there are: sums of a product may be ordered by its number
// of rows.
void FloatPass::rotate_sample(model::HiddenStates& states, int64_t sample) const {
  LAOS_ASSERT(rotation_ != nullptr);
  constexpr int64_t kRows = 1024;
  const int64_t begin = states.samples.offsets[static_cast<size_t>(sample)],
                end = states.samples.offsets[static_cast<size_t>(sample + 1)];
  for (int64_t row = begin; row < end; row += kRows)
    rotation_->residual.apply_right(states.rows.view().slice_rows(row, std::min(end, row + kRows)));
  states.rows.drop(begin, end);
}

void FloatPass::forward(const FloatLayer& layer, const model::HiddenStates& inputs,
                        model::HiddenStates* outputs, const Observe& observe) {
  const Stopwatch watch;
  const TimeSheet::Span timed(times_, kPassTime);
  model::LayerSaved<float> saved(config_, model::largest_piece(inputs.samples, kForwardTokens),
                                 false, model::longest_sample(inputs.samples));
  saved.compute = plan_.options.compute;
  const auto plain = model::pass_linears(saved.compute, model::views_of(layer.weights));
  model::OnlineLinears linears(layer.online, *plain);
  const auto show = [&](const model::Piece&, const model::Ragged& batch,
                        model::LayerSaved<float>& piece) {
    require_finite(plan_, layer.layer_idx, piece, batch.num_tokens());
    if (observe) observe(batch, piece);
    stop_if_asked(progress_);
  };
  model::forward_all(config_, model::norms_of(layer.weights), linears, rope_, inputs,
                     kForwardTokens, saved, outputs, show);
  seconds_ += watch.seconds();
}

}  // namespace laos::pipeline
