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
#include "model/online_rotation.h"
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

// The linears of a layer in float but for those of one group, which act as the accelerator will
// compute them. Keeps how far off that group's outputs were.
class OneGroupLow : public model::LinearsForward<float> {
 public:
  // `weights` must outlive this.
  OneGroupLow(const model::LayerWeights& weights, LinearGroup group,
              const quant::LinearScheme& scheme)
      : exact_(model::views_of(weights)), group_(group), act_(scheme.act) {
    double error = 0, size = 0;
    for (const Linear l : model::linears_of(group)) {
      const quant::IntWeight codes = quant::quantize_rtn(weights[l].view(), scheme.weight);
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
      quant::fake_quantize_tokens(x, act_, rounded.view());
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
  std::vector<Mat<float>> low_;
  double weight_error_ = 0, output_error_ = 0;
};

// Mean over tokens of ‖a - b‖² / ‖b‖².
double mean_relative_square(const Mat<float>& a, const Mat<float>& b) {
  std::vector<double> rows(static_cast<size_t>(a.rows()));
  parallel_for(a.rows(), [&](int64_t i) {
    double error = 0, size = 0;
    for (int64_t j = 0; j < a.cols(); ++j) {
      const double e = static_cast<double>(a(i, j)) - b(i, j);
      error += e * e;
      size += static_cast<double>(b(i, j)) * b(i, j);
    }
    rows[static_cast<size_t>(i)] = size > 0 ? error / size : 0;
  });
  double sum = 0;
  for (const double row : rows) sum += row;
  return sum / static_cast<double>(rows.size());
}

int width_of(const quant::LinearScheme& scheme) { return scheme.weight.bits + scheme.act.bits; }

// Of `tokens` in sum at most.
eval::Windows windows_of(const Plan& plan, int64_t tokens) {
  const Samples& samples =
      plan.samples->empty() && !plan.fits.empty() ? *plan.fits.front().samples : *plan.samples;
  eval::Windows windows =
      eval::cut_beginnings(samples, std::max<int64_t>(1, tokens / kWindowTokens), kWindowTokens);
  if (windows.empty())
    throw Error(ErrorCode::kData,
                {.what = "there is no text to measure activations on",
                 .where = plan.recipe.path.string(),
                 .fix = "give one with --dataset; its samples need two tokens or more"});
  return windows;
}

class AnalyzeRun {
 public:
  AnalyzeRun(const Plan& plan, const AnalyzeOptions& options, Progress& progress,
             cluster::Cluster& cluster)
      : plan_(plan),
        options_(options),
        progress_(progress),
        cluster_(cluster),
        config_(plan.checkpoint.config()),
        windows_(windows_of(plan, options.tokens)) {}

  Analysis run() {
    find_widths();
    rotation_ = make_plan_rotation(plan_, progress_, cluster_);
    states_ = model::embed(plan_.checkpoint.embed_tokens(), eval::ids_of(windows_));
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
    return std::move(result_);
  }

 private:
  void find_widths() {
    const quant::LinearScheme *low = nullptr, *high = nullptr;
    for (const PlannedLinear& planned : plan_.linears) {
      result_.parameters += size_of(planned);
      if (!planned.scheme) continue;
      if (low == nullptr || width_of(*planned.scheme) < width_of(*low)) low = &*planned.scheme;
      if (high == nullptr || width_of(*planned.scheme) > width_of(*high)) high = &*planned.scheme;
    }
    if (low != nullptr) {
      result_.low = *low;
      result_.high = *high;
      if (width_of(*low) == width_of(*high)) result_.high.weight.bits = result_.high.act.bits = 8;
    }
    if (low == nullptr || width_of(result_.low) == width_of(result_.high))
      throw Error(
          ErrorCode::kUnsupported,
          {.what = "the recipe quantizes nothing below 8 bits, so there is nothing to choose",
           .where = plan_.recipe.path.string(),
           .fix = "start from a recipe with 4-bit linears"});
    if (result_.low.act.is_static || result_.high.act.is_static)
      throw Error(ErrorCode::kUnsupported,
                  {.what = "static activations are not analyzed",
                   .where = plan_.recipe.path.string(),
                   .fix = "start from a recipe with per-token activations"});
    for (const PlannedLinear& planned : plan_.linears)
      if (planned.scheme && width_of(*planned.scheme) == width_of(result_.low))
        result_.planned_low += size_of(planned);
  }

  int64_t size_of(const PlannedLinear& planned) const {
    return model::out_features(config_, planned.linear) *
           model::in_features(config_, planned.linear);
  }

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

  std::array<model::Outliers, 4> outliers(const model::OnlineRotation& online) const {
    std::array<model::Outliers, 4> result;
    const int64_t n = states_.samples.num_tokens();
    for (const LinearGroup group : model::kAllLinearGroups) {
      const MatView<const float> x = saved_->input_of(group).view().slice_rows(0, n);
      const model::KroneckerRotation* rotation = online.of(group);
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

  // A float layer while the steps before quantization transform it.
  class Work : public FloatWork {
   public:
    Work(AnalyzeRun& run, int64_t index, FloatLayer& float_layer)
        : FloatWork(index, float_layer),
          run_(run),
          output_(run.states_.rows.rows(), run.config_.hidden_size) {}

    int64_t num_tokens() const override { return run_.states_.samples.num_tokens(); }
    void look(const FloatPass::Observe& observe) override {
      model::FloatLinears<float> plain(model::views_of(layer.weights));
      model::OnlineLinears linears(layer.online, plain);
      run_.forward(layer.weights, linears,
                   is_rotated_ ? std::as_const(run_.exact_).view() : run_.inputs(), output_.view());
      observe(run_.states_.samples, *run_.saved_);
    }
    void rotate(size_t) override {
      rotate_float(run_.config_, *run_.rotation_, layer_idx, layer);
      is_rotated_ = true;
    }

   private:
    AnalyzeRun& run_;
    Mat<float> output_;
    bool is_rotated_ = false;
  };

  void run_layer(int64_t layer_idx) {
    const int64_t n = states_.rows.rows();
    FloatLayer layer{.weights = plan_.checkpoint.load_layer(layer_idx)};
    const model::LayerWeights& weights = layer.weights;
    model::TokenRows next(n, config_.hidden_size, {});
    {
      model::FloatLinears<float> plain(model::views_of(weights));
      forward(weights, plain, inputs(), next.view());
    }
    const std::array<model::Outliers, 4> before = outliers({});
    {
      Work work(*this, layer_idx, layer);
      for (const auto& step : plan_.steps) step->transform(plan_, work);
    }
    const model::OnlineRotation& online = layer.online;
    std::swap(states_.rows, next);

    model::FloatLinears<float> plain(model::views_of(weights));
    model::OnlineLinears linears(online, plain);
    Mat<float> output(n, config_.hidden_size), added(n, config_.hidden_size);
    for (Mat<float>& variant : variants_) {
      forward(weights, linears, std::as_const(variant).view(), output.view());
      std::swap(variant, output);
    }
    forward(weights, linears, std::as_const(exact_).view(), output.view());
    const std::array<model::Outliers, 4> after = outliers(online);
    for (int64_t j = 0; j < added.size(); ++j)
      added.data()[j] = output.data()[j] - exact_.data()[j];
    for (const LinearGroup group : model::kAllLinearGroups) {
      GroupCost cost = planned_cost(layer_idx, group);
      cost.before = before[static_cast<size_t>(group)];
      cost.after = after[static_cast<size_t>(group)];
      cost.kl = kNaN;
      if (!is_mine(result_.groups.size())) {
        result_.groups.push_back(cost);
        continue;
      }
      OneGroupLow one_low(weights, group, result_.low);
      model::OnlineLinears low(online, one_low);
      Mat<float> changed(n, config_.hidden_size);
      forward(weights, low, std::as_const(exact_).view(), changed.view());
      cost.weight_error = one_low.weight_error();
      cost.output_error = one_low.output_error();
      cost.layer_error = model::mean_relative_error(
          std::as_const(changed).view(), std::as_const(output).view(), std::as_const(added).view());
      cost.stream_error = mean_relative_square(changed, output);
      result_.groups.push_back(cost);
      if (options_.kl && cost.is_candidate) variants_.push_back(std::move(changed));
    }
    std::swap(exact_, output);
  }

  GroupCost planned_cost(int64_t layer_idx, LinearGroup group) {
    GroupCost cost{.layer_idx = layer_idx, .group = group, .parameters = 0};
    bool quantized = true;
    int64_t low = 0;
    for (const Linear l : model::linears_of(group)) {
      const PlannedLinear& planned = plan_.linear(layer_idx, l);
      cost.parameters += size_of(planned);
      quantized = quantized && planned.scheme && !planned.scheme->act.is_static;
      if (planned.scheme && width_of(*planned.scheme) == width_of(result_.low))
        low += size_of(planned);
    }
    cost.is_candidate = quantized && options_.groups.contains(group);
    cost.is_planned_low = low == cost.parameters;
    if (!cost.is_candidate) result_.fixed_low += low;
    return cost;
  }

  void measure_kl() {
    const std::unique_ptr<eval::EvalModel> model = eval::open_eval_model(plan_.options.model_path);
    Mat<float> rotation;
    if (rotation_) rotation = rotation_->residual.matrix();
    const auto final_of = [&](Mat<float> rows) {
      model::HiddenStates states{states_.samples, std::move(rows)};
      if (rotation.size() != 0) {
        Mat<float> back(states.rows.rows(), states.rows.cols());
        linalg::gemm(Trans::kNo, Trans::kYes, 1.0f, std::as_const(states.rows).view(),
                     std::as_const(rotation).view(), 0.0f, back.view());
        states.rows = std::move(back);
      }
      eval::normalize_final(*model, states);
      return states;
    };
    const eval::ScoredHidden exact =
        eval::scored_hidden(*model, final_of(std::move(exact_)), windows_);
    progress_.begin("measure KL", std::ssize(variants_));
    auto variant = variants_.begin();
    for (size_t g = 0; g < result_.groups.size(); ++g) {
      GroupCost& cost = result_.groups[g];
      if (!cost.is_candidate || !is_mine(g)) continue;
      cost.kl = eval::compare(eval::scored_hidden(*model, final_of(std::move(*variant)), windows_),
                              exact, windows_)
                    .divergence.kl.value;
      ++variant;
      progress_.step(variant - variants_.begin(), "");
    }
  }

  // Every rank carries the float model; groups at the low width, one after the other, are theirs in
  // turn, each with its way to the model's end.
  bool is_mine(size_t group) const noexcept {
    return static_cast<int>(group % static_cast<size_t>(cluster_.size())) == cluster_.rank();
  }

  // What each rank measured of its groups, to rank 0.
  void collect() {
    using Measured = std::array<double, 5>;
    std::vector<Measured> mine;
    for (size_t g = 0; g < result_.groups.size(); ++g) {
      const GroupCost& c = result_.groups[g];
      if (is_mine(g))
        mine.push_back({c.weight_error, c.output_error, c.layer_error, c.stream_error, c.kl});
    }
    const std::vector<std::string> texts = cluster_.gather(
        std::string(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(Measured)));
    for (size_t g = 0; g < result_.groups.size() && !texts.empty(); ++g) {
      const size_t ranks = texts.size();
      Measured m;
      std::memcpy(&m, texts[g % ranks].data() + g / ranks * sizeof m, sizeof m);
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
  const eval::Windows windows_;
  Analysis result_;
  std::optional<rotation::ModelRotation> rotation_;
  std::optional<model::Rope<float>> rope_;
  std::optional<model::LayerSaved<float>> saved_;
  model::HiddenStates states_;        // what the layer reads in the float model
  Mat<float> exact_;                  // the same in the rotated basis
  std::vector<Mat<float>> variants_;  // likewise, one candidate so far at the low width each
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

Analysis analyze(const Plan& plan, const AnalyzeOptions& options, Progress& progress,
                 cluster::Cluster& cluster) {
  return AnalyzeRun(plan, options, progress, cluster).run();
}

std::vector<bool> choose_high(const Analysis& analysis, double low_share) {
  std::vector<size_t> candidates;
  std::vector<double> costs;
  std::vector<int64_t> sizes;
  int64_t total = 0;
  for (size_t i = 0; i < analysis.groups.size(); ++i) {
    const GroupCost& group = analysis.groups[i];
    if (!group.is_candidate) continue;
    candidates.push_back(i);
    costs.push_back(group.cost());
    sizes.push_back(group.parameters);
    total += group.parameters;
  }
  // A share that was computed from sizes must not miss them by rounding.
  const auto wanted = static_cast<int64_t>(
      std::ceil(low_share * static_cast<double>(analysis.parameters) * (1 - 1e-12) - 1e-6));
  const int64_t capacity = analysis.fixed_low + total - wanted;
  if (capacity < 0)
    throw Error(ErrorCode::kUsage,
                {.what = "a share of " + std::to_string(low_share) +
                         " at the low width cannot be reached: with every candidate it is " +
                         std::to_string(static_cast<double>(analysis.fixed_low + total) /
                                        static_cast<double>(analysis.parameters)),
                 .where = "--w4a4-share, --average-bits",
                 .fix = "ask for less, or make more groups candidates with --groups"});
  std::vector<bool> high(analysis.groups.size(), false);
  const std::vector<bool> taken = knapsack(costs, sizes, capacity);
  for (size_t i = 0; i < candidates.size(); ++i) high[candidates[i]] = taken[i];
  return high;
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
        for (std::string& pattern : recipe::layer_patterns(
                 widths->second[l], std::string(model::path_of(plan.checkpoint.config(), l))))
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
