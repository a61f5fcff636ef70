#include "autoround/train_layer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <string>
#include <utility>

#include "autoround/best_rule.h"
#include "core/rng.h"
#include "core/threads.h"
#include "model/kernels/elementwise.h"

namespace laos::autoround {
namespace {

constexpr int64_t kSamplesPerIteration = 8;
constexpr int64_t kEvaluationSamples = 32;

constexpr std::array kAttention = {model::Linear::kQProj, model::Linear::kKProj,
                                   model::Linear::kVProj, model::Linear::kOProj};

// Sums absolute errors row by row and adds the rows in order, so that threads do not matter.
double l1_loss(MatView<const float> y, MatView<const float> target, float d_loss,
               MatView<float> d_y) {
  std::vector<double> row_losses(static_cast<size_t>(y.rows));
  parallel_for_ranges(y.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      row_losses[static_cast<size_t>(i)] =
          model::kernels::l1_loss(y.row(i), target.row(i), d_loss, d_y.row(i), y.cols);
  });
  double sum = 0;
  for (const double loss : row_losses) sum += loss;
  return sum;
}

// Samples copied end to end: the batch of one iteration.
class BatchRunner {
 public:
  // With `mlp_only` no linear of attention is trained: its output is computed once a sample.
  BatchRunner(const hf::Config& config, const model::LayerWeights& weights,
              const model::OnlineRotation& online, const model::Rope<float>& rope,
              const model::HiddenStates& inputs, const model::HiddenStates& targets,
              TrainableLinears& linears, bool mlp_only, const std::filesystem::path& directory)
      : config_(config),
        norms_(model::norms_of(weights)),
        rope_(rope),
        inputs_(inputs),
        targets_(targets),
        linears_(online, linears, &linears),
        saved_(config, largest_batch(inputs.samples), true),
        x_(largest_batch(inputs.samples), config.hidden_size),
        target_(x_.rows(), x_.cols()),
        y_(x_.rows(), x_.cols()),
        d_y_(x_.rows(), x_.cols()) {
    if (!mlp_only) return;
    attended_ = model::TokenRows(inputs.rows.rows(), inputs.rows.cols(), directory);
    is_attended_.resize(static_cast<size_t>(inputs.samples.num_sequences()));
  }

  // Mean absolute error of the layer over `samples`; what backward needs is kept.
  double forward(const std::vector<int64_t>& samples) {
    for (const int64_t s : samples)
      if (mlp_only()) attend(s);
    batch_ = model::Ragged{};
    for (const int64_t s : samples) {
      if (mlp_only())
        copy(attended_of(s), saved_.hidden, batch_.num_tokens());
      else
        copy(inputs_.of_sample(s), x_, batch_.num_tokens());
      copy(targets_.of_sample(s), target_, batch_.num_tokens());
      batch_.append(inputs_.samples.length(s));
    }
    const int64_t n = batch_.num_tokens();
    const auto rows = [n](const Mat<float>& matrix) { return matrix.view().slice_rows(0, n); };
    const MatView<float> y = y_.view().slice_rows(0, n);
    if (mlp_only())
      model::mlp_half_forward<float>(config_, norms_, linears_, n, saved_, y);
    else
      model::layer_forward<float>(config_, norms_, linears_, rope_, batch_, rows(x_), saved_, y);
    const double loss = l1_loss(rows(y_), rows(target_), 1.0f, d_y_.view().slice_rows(0, n));
    return loss / static_cast<double>(n * config_.hidden_size);
  }

  void backward() {
    const int64_t n = batch_.num_tokens();
    const Mat<float>& x = x_;
    const MatView<const float> d_y = std::as_const(d_y_).view().slice_rows(0, n);
    if (mlp_only())
      model::mlp_half_backward<float>(linears_, n, saved_, d_y, false);
    else
      model::layer_backward<float>(config_, norms_, linears_, rope_, batch_,
                                   x.view().slice_rows(0, n), saved_, d_y, MatView<float>{});
  }

  // Mean absolute error over many samples, a batch at a time.
  double evaluate(const std::vector<int64_t>& samples) {
    double sum = 0, elements = 0;
    for (size_t begin = 0; begin < samples.size(); begin += kSamplesPerIteration) {
      const size_t end = std::min(samples.size(), begin + kSamplesPerIteration);
      const double mean = forward({samples.begin() + static_cast<std::ptrdiff_t>(begin),
                                   samples.begin() + static_cast<std::ptrdiff_t>(end)});
      const auto count = static_cast<double>(batch_.num_tokens() * config_.hidden_size);
      sum += mean * count;
      elements += count;
    }
    return sum / elements;
  }

 private:
  // Computes what leaves attention for a sample that is met for the first time.
  void attend(int64_t s) {
    if (std::exchange(is_attended_[static_cast<size_t>(s)], char{1}) != 0) return;
    batch_ = model::Ragged{};
    batch_.append(inputs_.samples.length(s));
    model::attention_half_forward<float>(config_, norms_, linears_, rope_, batch_,
                                         inputs_.of_sample(s), saved_);
    std::copy_n(saved_.hidden.data(), batch_.num_tokens() * config_.hidden_size,
                attended_.row(inputs_.samples.offsets[static_cast<size_t>(s)]));
  }
  bool mlp_only() const noexcept { return attended_.size() != 0; }
  MatView<const float> attended_of(int64_t s) const noexcept {
    return attended_.view().slice_rows(inputs_.samples.offsets[static_cast<size_t>(s)],
                                       inputs_.samples.offsets[static_cast<size_t>(s + 1)]);
  }
  static void copy(MatView<const float> source, Mat<float>& target, int64_t first_row) {
    std::copy_n(source.data, source.rows * source.cols, target.row(first_row));
  }

  const hf::Config& config_;
  model::LayerNorms<float> norms_;
  const model::Rope<float>& rope_;
  const model::HiddenStates& inputs_;
  const model::HiddenStates& targets_;
  model::OnlineLinears linears_;
  model::LayerSaved<float> saved_;
  model::Ragged batch_;
  Mat<float> x_, target_, y_, d_y_;
  model::TokenRows attended_;      // what enters the MLP; empty: attention is run
  std::vector<char> is_attended_;  // by sample
};

// Up to kEvaluationSamples indices spread evenly over 0..n-1.
std::vector<int64_t> evaluation_samples(int64_t n) {
  const int64_t count = std::min(n, kEvaluationSamples);
  std::vector<int64_t> samples(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) samples[static_cast<size_t>(i)] = i * n / count;
  return samples;
}

// The samples of each iteration in turn.
class Draws {
 public:
  Draws(int64_t num_samples, uint32_t seed, int64_t layer_idx) : num_samples_(num_samples) {
    std::seed_seq stream{seed, static_cast<uint32_t>(layer_idx)};
    generator_.seed(stream);
  }
  std::vector<int64_t> next() {
    std::vector<int64_t> samples = random_permutation(generator_, num_samples_);
    samples.resize(static_cast<size_t>(std::min(num_samples_, kSamplesPerIteration)));
    return samples;
  }

 private:
  int64_t num_samples_;
  std::mt19937 generator_;
};

}  // namespace

std::vector<int64_t> samples_seen(const TrainOptions& options, int64_t num_samples, uint32_t seed,
                                  int64_t layer_idx) {
  std::vector<bool> seen(static_cast<size_t>(num_samples), false);
  int64_t left = num_samples;
  const auto add = [&](const std::vector<int64_t>& samples) {
    for (const int64_t s : samples) {
      if (!seen[static_cast<size_t>(s)]) --left;
      seen[static_cast<size_t>(s)] = true;
    }
  };
  add(evaluation_samples(num_samples));
  Draws draws(num_samples, seed, layer_idx);
  for (int64_t k = 0; k < options.iters && left > 0; ++k) add(draws.next());
  std::vector<int64_t> samples;
  for (int64_t s = 0; s < num_samples; ++s)
    if (seen[static_cast<size_t>(s)]) samples.push_back(s);
  return samples;
}

int64_t largest_batch(const model::Ragged& samples) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < samples.num_sequences(); ++s) lengths.push_back(samples.length(s));
  const auto count = std::min<int64_t>(kSamplesPerIteration, std::ssize(lengths));
  std::partial_sort(lengths.begin(), lengths.begin() + count, lengths.end(), std::greater<>());
  int64_t tokens = 0;
  for (int64_t i = 0; i < count; ++i) tokens += lengths[static_cast<size_t>(i)];
  return tokens;
}

LayerResult train_layer(const hf::Config& config, const model::LayerWeights& weights,
                        const model::OnlineRotation& online, const LayerScheme& scheme,
                        const TrainOptions& options, const model::Rope<float>& rope,
                        const model::HiddenStates& inputs, const model::HiddenStates& targets,
                        uint32_t seed, int64_t layer_idx, const TrainProgress& progress,
                        const ActBits& untrained, const std::filesystem::path& directory) {
  LayerResult result;
  const bool any =
      std::any_of(scheme.begin(), scheme.end(), [](const auto& spec) { return spec.has_value(); });
  if (!any) return result;
  TrainableLinears linears(weights, scheme, options, untrained);
  linears.save(result.weights);
  const int64_t num_samples = inputs.samples.num_sequences();
  if ((!options.enable_round_tuning && !options.enable_minmax_tuning) || num_samples == 0)
    return result;

  const bool mlp_only = std::none_of(kAttention.begin(), kAttention.end(), [&](model::Linear l) {
    return scheme[static_cast<size_t>(l)].has_value();
  });
  BatchRunner runner(config, weights, online, rope, inputs, targets, linears, mlp_only, directory);
  const std::vector<int64_t> held = evaluation_samples(num_samples);
  LayerReport& report = result.report;
  report.rounding_loss = runner.evaluate(held);

  Draws draws(num_samples, seed, layer_idx);
  BestRule rule;
  TrainableLinears::Snapshot& best = result.weights;  // iteration 1 is plain rounding, saved above
  report.kept_iteration = 1;
  for (int64_t k = 0; k < options.iters; ++k) {
    const double loss = runner.forward(draws.next());
    if (!std::isfinite(loss))
      throw Error(ErrorCode::kNumeric,
                  {.what = "the loss of iteration " + std::to_string(k + 1) + " is not finite",
                   .where = "model.layers." + std::to_string(layer_idx),
                   .fix = "look for extreme weights in this layer"});
    report.losses.push_back(loss);
    if (rule.accept(loss) && k > 0) {
      linears.save(best);
      report.kept_iteration = k + 1;
    }
    linears.set_learning_rate(static_cast<float>(learning_rate(k, options.iters)));
    runner.backward();
    if (progress) progress(k + 1, loss);
  }

  // The rule judges by a few noisy losses and never sees the last update. Measure its choice, the
  // final parameters and plain rounding on one set of samples.
  const double final_loss = runner.evaluate(held);
  TrainableLinears::Snapshot final_weights;
  linears.save(final_weights);
  linears.apply(best);
  report.loss = runner.evaluate(held);
  if (final_loss <= report.loss) {
    report.loss = final_loss;
    report.kept_iteration = options.iters + 1;
    best = std::move(final_weights);
  }
  if (report.rounding_loss < report.loss) {
    linears.reset();
    linears.save(best);
    report.loss = report.rounding_loss;
    report.kept_iteration = 0;
  }
  return result;
}

}  // namespace laos::autoround
