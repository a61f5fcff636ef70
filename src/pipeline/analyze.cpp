#include "pipeline/analyze.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "core/threads.h"
#include "eval/metrics.h"
#include "hf/data_file.h"
#include "hf/dataset.h"
#include "linalg/gemm.h"
#include "model/online_transform.h"
#include "pipeline/float_pass.h"
#include "pipeline/knapsack.h"
#include "pipeline/layer_steps.h"
#include "quant/int_weight.h"
#include "quant/weight_stats.h"
#include "recipe/rewrite.h"
#include "rotation/rotation.h"

namespace laos::pipeline {

using linalg::Trans;
using model::Linear;
using model::LinearGroup;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kWindowTokens = 128;
constexpr int64_t kSetAsideOf = 4;  // of so many samples at most one is measured on
constexpr size_t kNumGroups = model::kAllLinearGroups.size();

// The linears of a layer in float but for those of one group, which act as the accelerator will
// compute them. Keeps how far off that group's outputs were.
class OneGroupLow : public model::LinearsForward<float> {
 public:
  // `weights` must outlive this. `made`: codes of the group's linears that a step has made; the
  // rest are rounded to nearest. `clip` as model::KroneckerTransform::clip.
  OneGroupLow(const model::LayerWeights& weights, LinearGroup group,
              const quant::LinearScheme& scheme, const model::PerLinear<quant::IntWeight>& made,
              float clip)
      : exact_(model::views_of(weights)), group_(group), act_(scheme.act), clip_(clip) {
    double error = 0, size = 0;
    for (const Linear l : model::linears_of(group)) {
      quant::IntWeight rounded;
      if (made[l].q.size() == 0) rounded = quant::quantize_rtn(weights[l].view(), scheme.weight);
      const quant::IntWeight& codes = made[l].q.size() == 0 ? rounded : made[l];
      const double relative = quant::weight_stats(weights[l].view(), codes).error;
      double norm = 0;
      for (int64_t i = 0; i < weights[l].size(); ++i)
        norm += static_cast<double>(weights[l].data()[i]) * weights[l].data()[i];
      error += relative * relative * norm;
      size += norm;
      low_.push_back(quant::dequantize(codes));
    }
    weight_error_ = size > 0 ? std::sqrt(error / size) : 0;
  }

  void forward(LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override {
    exact_.forward(group, x, ys);
    if (group != group_) return;
    Mat<float> rounded(x.rows, x.cols);
    if (act_.bits < 16)
      quant::fake_quantize_tokens(x, act_, rounded.view(), clip_);
    else
      for (int64_t i = 0; i < x.rows; ++i) std::copy_n(x.row(i), x.cols, rounded.row(i));
    output_error_ = 0;
    for (size_t i = 0; i < low_.size(); ++i) {
      Mat<float> y(ys[i].rows, ys[i].cols);
      linalg::gemm(Trans::kNo, Trans::kYes, 1.0f, std::as_const(rounded).view(),
                   std::as_const(low_[i]).view(), 0.0f, y.view());
      output_error_ += model::mean_relative_error(std::as_const(y).view(), ys[i], ys[i]) /
                       static_cast<double>(low_.size());
      for (int64_t r = 0; r < y.rows(); ++r) std::copy_n(y.row(r), y.cols(), ys[i].row(r));
    }
  }

  double weight_error() const noexcept { return weight_error_; }
  double output_error() const noexcept { return output_error_; }

 private:
  model::FloatLinears<float> exact_;
  LinearGroup group_;
  quant::ActSpec act_;
  float clip_;
  std::vector<Mat<float>> low_;
  double weight_error_ = 0, output_error_ = 0;
};

// Mean over tokens of ‖a - b‖² / ‖b‖².
double mean_relative_square(MatView<const float> a, MatView<const float> b) {
  std::vector<double> rows(static_cast<size_t>(a.rows));
  parallel_for(a.rows, [&](int64_t i) {
    double error = 0, size = 0;
    for (int64_t j = 0; j < a.cols; ++j) {
      const double e = static_cast<double>(a.row(i)[j]) - b.row(i)[j];
      error += e * e;
      size += static_cast<double>(b.row(i)[j]) * b.row(i)[j];
    }
    rows[static_cast<size_t>(i)] = size > 0 ? error / size : 0;
  });
  double sum = 0;
  for (const double row : rows) sum += row;
  return sum / static_cast<double>(rows.size());
}

int width_of(const quant::LinearScheme& scheme) { return scheme.weight.bits + scheme.act.bits; }

// What is measured on, of `tokens` in sum at most. Codes lose little on the text that they are
// solved with, least of all where it has few tokens for their inputs: Qwen2.5-0.5B's down_proj, with
// 2.5 tokens an input, looked cheap there.
void choose_windows(Plan& plan, int64_t tokens, Analysis& analysis) {
  const int64_t window_tokens = std::min(tokens, kWindowTokens), count = tokens / window_tokens,
                size = std::ssize(*plan.samples);
  const bool looks = analysis_looks_from(plan, 0);
  const int64_t set_aside = looks ? std::min(count, size / kSetAsideOf) : 0;
  if (set_aside == 0) {
    analysis.windows = eval::cut_spread(*plan.samples, count, window_tokens);
    analysis.is_held_back = !looks;
  } else {
    Samples measured, rest;
    for (int64_t i = 0; i < size; ++i) {
      const bool is_measured = i * set_aside / size != (i + 1) * set_aside / size;
      (is_measured ? measured : rest).push_back((*plan.samples)[static_cast<size_t>(i)]);
    }
    analysis.windows = eval::cut_spread(measured, count, window_tokens);
    plan.samples = std::make_shared<const Samples>(std::move(rest));
  }
  if (analysis.windows.empty())
    throw Error(ErrorCode::kData,
                {.what = "there is no text to measure activations on",
                 .where = plan.recipe.path.string(),
                 .fix = "give one with --dataset; its samples need two tokens or more"});
}

int64_t size_of(const Plan& plan, const PlannedLinear& planned) {
  return model::num_weights(plan.checkpoint.config(), planned.linear);
}

void find_widths(const Plan& plan, Analysis& result) {
  const quant::LinearScheme *low = nullptr, *high = nullptr;
  for (const PlannedLinear& planned : plan.linears) {
    result.parameters += size_of(plan, planned);
    if (!planned.scheme) continue;
    if (low == nullptr || width_of(*planned.scheme) < width_of(*low)) low = &*planned.scheme;
    if (high == nullptr || width_of(*planned.scheme) > width_of(*high)) high = &*planned.scheme;
  }
  if (low != nullptr) {
    result.low = *low;
    result.high = *high;
    if (width_of(*low) == width_of(*high)) result.high.weight.bits = result.high.act.bits = 8;
  }
  if (low == nullptr || width_of(result.low) == width_of(result.high))
    throw Error(ErrorCode::kUnsupported,
                {.what = "the recipe quantizes nothing below 8 bits, so there is nothing to choose",
                 .where = plan.recipe.path.string(),
                 .fix = "start from a recipe with 4-bit linears"});
  if (result.low.act.is_static || result.high.act.is_static)
    throw Error(ErrorCode::kUnsupported, {.what = "static activations are not analyzed",
                                          .where = plan.recipe.path.string(),
                                          .fix = "start from a recipe with per-token activations"});
  for (const PlannedLinear& planned : plan.linears)
    if (planned.scheme && width_of(*planned.scheme) == width_of(result.low))
      result.planned_low += size_of(plan, planned);
}

// Whether engines can hold a linear of that size at that scheme.
bool is_held(const hf::Config& config, Linear linear, const std::string& label) {
  const scheme::Scheme* row = scheme::find(label);
  return row != nullptr && model::in_features(config, linear) % row->in_multiple == 0 &&
         model::out_features(config, linear) % row->out_multiple == 0;
}

GroupCost planned_cost(const Plan& plan, const AnalyzeOptions& options, int64_t layer_idx,
                       LinearGroup group, Analysis& result) {
  GroupCost cost{.layer_idx = layer_idx, .group = group, .kl = kNaN};
  const std::string low_label = quant::label_of(result.low).value_or("");
  bool may_change = options.groups.contains(group);
  int64_t low = 0;
  for (const Linear l : model::linears_of(group)) {
    const PlannedLinear& planned = plan.linear(layer_idx, l);
    cost.parameters += size_of(plan, planned);
    may_change = may_change && planned.scheme && !planned.scheme->act.is_static &&
                 is_held(plan.checkpoint.config(), l, low_label);
    if (planned.scheme && width_of(*planned.scheme) == width_of(result.low))
      low += size_of(plan, planned);
  }
  cost.is_candidate = may_change;
  cost.is_planned_low = low == cost.parameters;
  if (!cost.is_candidate) result.fixed_low += low;
  return cost;
}

class AnalyzeRun {
 public:
  AnalyzeRun(const Plan& plan, const AnalyzeOptions& options, Analysis& analysis,
             Progress& progress, cluster::Cluster& cluster)
      : plan_(plan),
        options_(options),
        progress_(progress),
        cluster_(cluster),
        config_(plan.checkpoint.config()),
        result_(analysis) {}

  void run() {
    rotation_ = make_plan_rotation(plan_, progress_, cluster_);
    pass_.emplace(plan_, rotation_ ? &*rotation_ : nullptr, plan_.options.scratch_path, progress_);
    if (analysis_looks_from(plan_, 0)) {
      calibration_ = pass_->embed(*plan_.samples);
      calibration_next_ = {calibration_.samples,
                           pass_->new_rows(calibration_.samples.num_tokens())};
    }
    states_ = model::embed(plan_.checkpoint.embed_tokens(), eval::ids_of(result_.windows));
    const int64_t n = states_.samples.num_tokens();
    result_.num_tokens = n;
    rope_.emplace(config_, model::longest_sample(states_.samples));
    saved_.emplace(config_, n, false);
    exact_ = in_basis(inputs());
    progress_.begin("analyze", config_.num_hidden_layers);
    for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
      run_layer(i);
      progress_.step(i + 1, "");
    }
    if (options_.kl) measure_kl();
    collect();
  }

 private:
  Mat<float> in_basis(MatView<const float> rows) const {
    Mat<float> result(rows.rows, rows.cols);
    std::copy_n(rows.data, result.size(), result.data());
    if (rotation_) rotation_->residual.apply_right(result.view());
    return result;
  }

  void forward(const model::LayerWeights& weights, model::LinearsForward<float>& linears,
               MatView<const float> x, MatView<float> y) {
    model::layer_forward<float>(config_, model::norms_of(weights), linears, *rope_, states_.samples,
                                x, *saved_, y);
  }
  MatView<const float> inputs() const { return states_.rows.view(); }

  std::array<model::Outliers, 4> outliers(const model::OnlineTransforms& online) const {
    std::array<model::Outliers, 4> result;
    const int64_t n = states_.samples.num_tokens();
    for (const LinearGroup group : model::kAllLinearGroups) {
      const MatView<const float> x = saved_->input_of(group).view().slice_rows(0, n);
      const model::KroneckerTransform* rotation = online.of(group);
      Mat<float> rotated;
      if (rotation != nullptr) {
        rotated = Mat<float>(x.rows, x.cols);
        rotation->apply(x, rotated.view());
      }
      result[static_cast<size_t>(group)] =
          model::outliers_of(rotation != nullptr ? std::as_const(rotated).view() : x);
    }
    return result;
  }

  // The layer as the steps leave it, and their codes of its linears where they are this rank's to
  // measure. Those of a step that trains are not made: rounding to nearest stands for them.
  QuantizedLayer make_layer(int64_t layer_idx) {
    QuantizedLayer layer{
        .layer = {.weights = plan_.checkpoint.load_layer(layer_idx), .layer_idx = layer_idx}};
    LayerStates states{.inputs = &calibration_, .outputs = &calibration_next_};
    const bool goes_on = analysis_looks_from(plan_, layer_idx + 1);
    LayerWork work(plan_, *pass_, progress_, layer_idx, layer, states, goes_on);
    for (const auto& step : plan_.steps) {
      step->transform(plan_, work);
      if (is_mine(layer_idx) && !step->reads_outputs()) step->quantize(plan_, work);
    }
    if (goes_on) {
      work.ensure_outputs();
      std::swap(calibration_, calibration_next_);
    }
    return layer;
  }

  void run_layer(int64_t layer_idx) {
    const int64_t n = states_.rows.rows();
    std::array<model::Outliers, 4> before;
    {
      const model::LayerWeights weights = plan_.checkpoint.load_layer(layer_idx);
      model::FloatLinears<float> plain(model::views_of(weights));
      model::TokenRows next(n, config_.hidden_size, {});
      forward(weights, plain, inputs(), next.view());
      before = outliers({});
      std::swap(states_.rows, next);
    }
    const QuantizedLayer made = make_layer(layer_idx);
    const model::LayerWeights& weights = made.layer.weights;
    const model::OnlineTransforms& online = made.layer.online;

    model::FloatLinears<float> plain(model::views_of(weights));
    model::OnlineLinears linears(online, plain);
    Mat<float> output(n, config_.hidden_size), added(n, config_.hidden_size);
    for (const model::TokenRows& variant : variants_) {
      forward(weights, linears, variant.view(), output.view());
      std::copy_n(output.data(), output.size(), variant.data());
      variant.drop(0, n);
      stop_if_asked(progress_);
    }
    forward(weights, linears, std::as_const(exact_).view(), output.view());
    const std::array<model::Outliers, 4> after = outliers(online);
    for (int64_t j = 0; j < added.size(); ++j)
      added.data()[j] = output.data()[j] - exact_.data()[j];
    for (const LinearGroup group : model::kAllLinearGroups) {
      GroupCost& cost =
          result_.groups[static_cast<size_t>(layer_idx) * kNumGroups + static_cast<size_t>(group)];
      cost.before = before[static_cast<size_t>(group)];
      cost.after = after[static_cast<size_t>(group)];
      if (!is_mine(layer_idx)) continue;
      OneGroupLow one_low(weights, group, result_.low, made.quantized, online.clip_of(group));
      model::OnlineLinears low(online, one_low);
      model::TokenRows changed(n, config_.hidden_size, pass_->scratch());
      forward(weights, low, std::as_const(exact_).view(), changed.view());
      cost.weight_error = one_low.weight_error();
      cost.output_error = one_low.output_error();
      cost.layer_error = model::mean_relative_error(
          std::as_const(changed).view(), std::as_const(output).view(), std::as_const(added).view());
      cost.stream_error = mean_relative_square(changed.view(), std::as_const(output).view());
      if (options_.kl && cost.is_candidate) variants_.push_back(std::move(changed));
    }
    std::swap(exact_, output);
  }

  void measure_kl() {
    constexpr size_t kAtOnce =
        16;  // with the hidden states of so many the baseline's logits are shared
    const std::unique_ptr<eval::EvalModel> model = eval::open_eval_model(plan_.options.model_path);
    Mat<float> rotation;
    if (rotation_) rotation = rotation_->residual.matrix();
    const auto scored = [&](model::TokenRows rows) {
      model::HiddenStates states{states_.samples, std::move(rows)};
      if (rotation.size() != 0) {
        Mat<float> back(states.rows.rows(), states.rows.cols());
        linalg::gemm(Trans::kNo, Trans::kYes, 1.0f, std::as_const(states.rows).view(),
                     std::as_const(rotation).view(), 0.0f, back.view());
        states.rows = std::move(back);
      }
      eval::normalize_final(*model, states);
      return eval::scored_hidden(*model, states, result_.windows);
    };
    const eval::ScoredHidden exact = scored(std::move(exact_));
    std::vector<GroupCost*> mine;
    for (GroupCost& cost : result_.groups)
      if (cost.is_candidate && is_mine(cost.layer_idx)) mine.push_back(&cost);
    LAOS_ASSERT(mine.size() == variants_.size());
    progress_.begin("measure KL", std::ssize(mine));
    for (size_t begin = 0; begin < mine.size(); begin += kAtOnce) {
      const size_t end = std::min(mine.size(), begin + kAtOnce);
      std::vector<eval::ScoredHidden> models;
      for (size_t i = begin; i < end; ++i) models.push_back(scored(std::move(variants_[i])));
      const std::vector<double> kl = eval::mean_kl(models, exact, result_.windows);
      for (size_t i = begin; i < end; ++i) mine[i]->kl = kl[i - begin];
      progress_.step(static_cast<int64_t>(end), "");
      stop_if_asked(progress_);
    }
  }

  // Every rank carries the float model; the groups of a layer, one after the other at the low
  // width, are one rank's, each with its way to the model's end.
  bool is_mine(int64_t layer_idx) const noexcept {
    return static_cast<int>(layer_idx % cluster_.size()) == cluster_.rank();
  }

  // What each rank measured of its groups, to rank 0.
  void collect() {
    using Measured = std::array<double, 5>;
    std::vector<Measured> mine;
    for (size_t g = 0; g < result_.groups.size(); ++g) {
      const GroupCost& c = result_.groups[g];
      if (is_mine(c.layer_idx))
        mine.push_back({c.weight_error, c.output_error, c.layer_error, c.stream_error, c.kl});
    }
    const std::vector<std::string> texts = cluster_.gather(
        std::string(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(Measured)));
    for (size_t g = 0; g < result_.groups.size() && !texts.empty(); ++g) {
      const size_t ranks = texts.size(), layer = g / kNumGroups;
      Measured m;
      std::memcpy(
          &m,
          texts[layer % ranks].data() + (layer / ranks * kNumGroups + g % kNumGroups) * sizeof m,
          sizeof m);
      GroupCost& c = result_.groups[g];
      c.weight_error = m[0];
      c.output_error = m[1];
      c.layer_error = m[2];
      c.stream_error = m[3];
      c.kl = m[4];
    }
  }

  const Plan& plan_;
  const AnalyzeOptions& options_;
  Progress& progress_;
  cluster::Cluster& cluster_;
  const hf::Config& config_;
  Analysis& result_;
  std::optional<rotation::ModelRotation> rotation_;
  std::optional<model::Rope<float>> rope_;
  std::optional<model::LayerSaved<float>> saved_;
  // What the layer at work reads in the float model: of all calibration samples, for the steps...
  std::optional<FloatPass> pass_;
  model::HiddenStates calibration_, calibration_next_;
  model::HiddenStates states_;              // ...of the windows
  Mat<float> exact_;                        // the same in the rotated basis
  std::vector<model::TokenRows> variants_;  // likewise, one candidate so far at the low width each
};

}  // namespace

double GroupCost::cost() const noexcept { return std::isnan(kl) ? stream_error : kl; }

const char* name_of(LinearGroup group) noexcept {
  switch (group) {
    case LinearGroup::kQkv:
      return "qkv";
    case LinearGroup::kO:
      return "o";
    case LinearGroup::kGateUp:
      return "gate_up";
    case LinearGroup::kDown:
      break;
  }
  return "down";
}

Analysis begin_analysis(Plan& plan, const AnalyzeOptions& options) {
  if (plan.checkpoint.config().num_experts > 0)
    throw Error(ErrorCode::kUnsupported,
                {.what = "models with experts are not analysed yet",
                 .where = plan.options.model_path.string(),
                 .fix = "give a recipe that says which linears have 4 bits"});
  Analysis analysis;
  find_widths(plan, analysis);
  for (int64_t i = 0; i < plan.checkpoint.config().num_hidden_layers; ++i)
    for (const LinearGroup group : model::kAllLinearGroups)
      analysis.groups.push_back(planned_cost(plan, options, i, group, analysis));
  for (const GroupCost& group : analysis.groups) {
    if (!group.is_candidate) continue;
    for (const Linear l : model::linears_of(group.group)) {
      PlannedLinear& planned =
          plan.linears[static_cast<size_t>(group.layer_idx * model::kNumLinears) +
                       static_cast<size_t>(l)];
      planned.scheme = analysis.low;
      planned.label = quant::label_of(analysis.low).value_or("");
    }
  }
  // Steps that looked at nothing may look now.
  plan.samples = plan.calibration();
  choose_windows(plan, options.tokens, analysis);
  return analysis;
}

bool analysis_looks_from(const Plan& plan, int64_t layer_idx) {
  for (int64_t i = layer_idx; i < plan.checkpoint.config().num_hidden_layers; ++i)
    for (const auto& step : plan.steps)
      if (!step->reads_outputs() && step->reads(plan, i)) return true;
  return false;
}

void analyze(const Plan& plan, const AnalyzeOptions& options, Analysis& analysis,
             Progress& progress, cluster::Cluster& cluster) {
  AnalyzeRun(plan, options, analysis, progress, cluster).run();
}

double predicted_cost(const Analysis& analysis, const std::vector<bool>& high) noexcept {
  double cost = 0;
  for (size_t i = 0; i < analysis.groups.size(); ++i)
    if (analysis.groups[i].is_candidate && !high[i]) cost += analysis.groups[i].cost();
  return cost;
}

namespace {

// The candidates' own, in order.
struct Candidates {
  explicit Candidates(const Analysis& analysis) {
    for (size_t i = 0; i < analysis.groups.size(); ++i) {
      const GroupCost& group = analysis.groups[i];
      if (!group.is_candidate) continue;
      indices.push_back(i);
      costs.push_back(group.cost());
      sizes.push_back(group.parameters);
      total += group.parameters;
    }
  }
  std::vector<size_t> indices;
  std::vector<double> costs;
  std::vector<int64_t> sizes;
  int64_t total = 0;
};

// The least sum of costs with at least that share of all weights at the low width.
std::vector<bool> choose_by_share(const Analysis& analysis, double low_share) {
  const Candidates candidates(analysis);
  // A share that was computed from sizes must not miss them by rounding.
  const auto wanted = static_cast<int64_t>(
      std::ceil(low_share * static_cast<double>(analysis.parameters) * (1 - 1e-12) - 1e-6));
  const int64_t most = analysis.fixed_low + candidates.total;
  if (most < wanted)
    throw Error(ErrorCode::kUsage,
                {.what = "a share of " + std::to_string(low_share) +
                         " at the low width cannot be reached: with every candidate it is " +
                         std::to_string(static_cast<double>(most) /
                                        static_cast<double>(analysis.parameters)),
                 .where = "--w4a4-share, --average-bits",
                 .fix = "ask for less, or make more groups candidates with --groups"});
  std::vector<bool> high(analysis.groups.size(), false);
  const std::vector<bool> taken = knapsack(candidates.costs, candidates.sizes, most - wanted);
  for (size_t i = 0; i < taken.size(); ++i) high[candidates.indices[i]] = taken[i];
  return high;
}

// The most weights at the low width whose costs sum to at most that.
std::vector<bool> choose_by_cost(const Analysis& analysis, double max_cost) {
  constexpr double kUnits = 1 << 16;  // that the budget is counted in; costs are rounded up
  const Candidates candidates(analysis);
  std::vector<bool> high(analysis.groups.size(), false);
  std::vector<double> values;
  std::vector<int64_t> units;
  std::vector<size_t> indices;
  for (size_t i = 0; i < candidates.indices.size(); ++i) {
    high[candidates.indices[i]] = true;
    if (!(candidates.costs[i] <= max_cost)) continue;
    indices.push_back(candidates.indices[i]);
    values.push_back(static_cast<double>(candidates.sizes[i]));
    units.push_back(std::max<int64_t>(
        1, static_cast<int64_t>(std::ceil(kUnits * candidates.costs[i] / max_cost))));
  }
  const std::vector<bool> low = knapsack(values, units, static_cast<int64_t>(kUnits));
  for (size_t i = 0; i < low.size(); ++i) high[indices[i]] = !low[i];
  return high;
}

}  // namespace

std::vector<bool> choose_high(const Analysis& analysis, const Budget& budget) {
  if (budget.max_kl) return choose_by_cost(analysis, *budget.max_kl);
  if (budget.low_share) return choose_by_share(analysis, *budget.low_share);
  if (!budget.average_bits)
    return choose_by_share(analysis, static_cast<double>(analysis.planned_low) /
                                         static_cast<double>(analysis.parameters));
  const double low = analysis.low.weight.bits, high = analysis.high.weight.bits;
  if (*budget.average_bits < low || *budget.average_bits > high)
    throw Error(ErrorCode::kUsage,
                {.what = "--average-bits " + std::to_string(*budget.average_bits) +
                         " is not between the recipe's widths, " +
                         std::to_string(analysis.low.weight.bits) + " and " +
                         std::to_string(analysis.high.weight.bits),
                 .where = "command line",
                 .fix = "give a number between them"});
  return choose_by_share(analysis, (high - *budget.average_bits) / (high - low));
}

std::string recipe_with(const Plan& plan, const Analysis& analysis, const std::vector<bool>& high,
                        const std::string& config_id, const std::filesystem::path& file) {
  // By quantizer and width: the layers in which each linear has it.
  using Widths = std::pair<int, int>;
  std::vector<std::map<Widths, model::PerLinear<std::set<int64_t>>>> layers(plan.steps.size());
  for (size_t g = 0; g < analysis.groups.size(); ++g) {
    const GroupCost& group = analysis.groups[g];
    for (const Linear l : model::linears_of(group.group)) {
      const PlannedLinear& planned = plan.linear(group.layer_idx, l);
      if (!planned.scheme) {  // said, so that a plan does not take it for forgotten
        layers.back()[{16, 16}][l].insert(group.layer_idx);
        continue;
      }
      const quant::LinearScheme& scheme = !group.is_candidate ? *planned.scheme
                                          : high[g]           ? analysis.high
                                                              : analysis.low;
      layers[planned.step][{scheme.weight.bits, scheme.act.bits}][l].insert(group.layer_idx);
    }
  }
  std::vector<std::vector<recipe::NewStrategy>> strategies(layers.size());
  for (size_t step = 0; step < layers.size(); ++step) {
    for (auto widths = layers[step].rbegin(); widths != layers[step].rend(); ++widths) {
      recipe::NewStrategy& strategy = strategies[step].emplace_back();
      strategy.weight_bits = widths->first.first;
      strategy.act_bits = widths->first.second;
      for (const Linear l : model::kAllLinears)
        for (std::string& pattern :
             recipe::layer_patterns(hf::layers_name(plan.checkpoint.config()), widths->second[l],
                                    model::path_of(plan.checkpoint.config(), l)))
          strategy.include.push_back(std::move(pattern));
    }
  }
  // A dataset that is found from the old recipe's place but not from the new one's gets its path.
  std::optional<std::string> dataset;
  if (!plan.dataset_path.empty() && !hf::data_source_of(plan.dataset_path).is_stdin()) {
    const std::filesystem::path path = std::filesystem::absolute(plan.dataset_path);
    bool found = false;
    std::error_code ignored;  // FILE:KEY is no path that can be looked at
    try {
      found = !plan.options.dataset &&
              (plan.is_default_dataset ||
               std::filesystem::equivalent(
                   hf::find_dataset(plan.recipe.main.dataset,
                                    std::filesystem::absolute(file).parent_path(),
                                    plan.options.calib_directories),
                   path, ignored));
    } catch (const Error&) {
      found = false;
    }
    if (!found) dataset = path.string();
  }
  return recipe::with_strategies(plan.recipe, strategies, config_id, dataset);
}

}  // namespace laos::pipeline
