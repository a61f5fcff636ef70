#include "autoround/train_layer.h"

#include <algorithm>
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

// Of until_flat: iterations of the first round, and the part of the loss that a round must take off
// for another to follow.
constexpr int64_t kFirstRound = 100;
constexpr double kFlat = 0.05;

// The samples of a batch, end to end, go through the layer in pieces. What backward needs is saved
// of the whole batch; or, where that is too much, of one piece, which goes back at once.
class BatchRunner {
 public:
  // With `mlp_only` no linear of attention is trained: its output is computed once a sample.
  BatchRunner(const hf::Config& config, const model::LayerWeights& weights,
              const model::OnlineRotation& online, const TrainOptions& options,
              const model::Rope<float>& rope, const model::HiddenStates& inputs,
              const model::HiddenStates& targets, TrainableLinears& linears, bool mlp_only,
              const std::filesystem::path& directory)
      : config_(config),
        norms_(model::norms_of(weights)),
        rope_(rope),
        inputs_(inputs),
        targets_(targets),
        trainable_(linears),
        linears_(online, linears, &linears),
        max_tokens_(largest_batch(inputs.samples)),
        is_whole_(max_tokens_ <= options.max_whole_tokens),
        mlp_only_(mlp_only),
        piece_tokens_(std::min(max_tokens_, model::kPieceTokens)),
        saved_(config, is_whole_ ? max_tokens_ : piece_tokens_, true,
               is_whole_ ? 0 : model::longest_sample(inputs.samples)),
        x_(piece_tokens_, config.hidden_size),
        y_(is_whole_ ? max_tokens_ : piece_tokens_, config.hidden_size),
        row_losses_(piece_tokens_) {
    saved_.compute = options.compute;
    if (!is_whole_) linears.keep_gradients();
    if (!mlp_only) return;
    attended_ = model::TokenRows(inputs.rows.rows(), inputs.rows.cols(), directory);
    is_attended_.resize(static_cast<size_t>(inputs.samples.num_sequences()));
  }

  // Mean absolute error of the layer over `samples`. backward() may follow.
  double forward(const std::vector<int64_t>& samples) { return run(samples, true); }

  void backward() {
    if (!is_whole_) return trainable_.step();
    const MatView<float> d_y = y_.view().slice_rows(0, batch_.num_tokens());
    if (mlp_only_)
      model::mlp_half_backward<float>(config_, norms_, linears_, batch_, saved_, d_y, false);
    else
      model::layer_backward<float>(config_, norms_, linears_, rope_, batch_, {}, saved_, d_y, {});
  }

  // Mean absolute error over many samples, a batch at a time.
  double evaluate(const std::vector<int64_t>& samples) {
    double sum = 0, elements = 0;
    for (size_t begin = 0; begin < samples.size(); begin += kSamplesPerIteration) {
      const size_t end = std::min(samples.size(), begin + kSamplesPerIteration);
      const double mean = run({samples.begin() + static_cast<std::ptrdiff_t>(begin),
                               samples.begin() + static_cast<std::ptrdiff_t>(end)},
                              false);
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
    const int64_t first = inputs_.samples.offsets[static_cast<size_t>(s)];
    model::Ragged sample;
    sample.append(inputs_.samples.length(s));
    for (const model::Piece& piece : model::pieces_of(sample, model::kPieceTokens)) {
      const int64_t begin = first + piece.begin, n = piece.batch.num_tokens();
      model::attention_half_forward<float>(config_, norms_, linears_, rope_, piece.batch,
                                           inputs_.rows.view().slice_rows(begin, begin + n),
                                           saved_);
      std::copy_n(saved_.hidden.data(), n * config_.hidden_size, attended_.row(begin));
      inputs_.rows.drop(begin, begin + n);
      attended_.drop(begin, begin + n);
    }
  }

  double run(const std::vector<int64_t>& samples, bool goes_back) {
    for (const int64_t s : samples)
      if (mlp_only_) attend(s);
    batch_.offsets.assign(1, 0);
    for (const int64_t s : samples) batch_.append(inputs_.samples.length(s));
    const std::vector<model::Piece> pieces = model::pieces_of(batch_, model::kPieceTokens);
    double loss = 0;
    for (size_t p = 0; p < pieces.size(); ++p) {
      const model::Piece& piece = pieces[p];
      const int64_t n = piece.batch.num_tokens();
      const model::Place place = is_whole_ && goes_back
                                     ? model::Place{piece.begin, piece.begin - piece.batch.past}
                                     : model::Place{};
      const MatView<float> y = y_.view().slice_rows(place.row, place.row + n);
      if (mlp_only_) {
        gather(attended_, samples, piece,
               saved_.hidden.view().slice_rows(place.row, place.row + n));
        model::mlp_half_forward<float>(config_, norms_, linears_, saved_, y, place);
      } else {
        gather(inputs_.rows, samples, piece, x_.view());
        model::layer_forward<float>(config_, norms_, linears_, rope_, piece.batch,
                                    std::as_const(x_).view().slice_rows(0, n), saved_, y, place);
      }
      loss += lose(samples, piece, y);
      if (is_whole_ || !goes_back) continue;
      if (mlp_only_) {
        model::mlp_half_backward<float>(config_, norms_, linears_, piece.batch, saved_, y, false);
        continue;
      }
      const bool goes_on = p + 1 < pieces.size() && pieces[p + 1].batch.past > 0;
      const bool is_part = piece.batch.past > 0 || goes_on;
      model::piece_backward<float>(config_, norms_, linears_, rope_, piece.batch, is_part, saved_,
                                   y);
      if (!is_part || goes_on) continue;
      for (size_t part = p - static_cast<size_t>(piece.batch.past / model::kPieceTokens); part <= p;
           ++part) {
        gather(inputs_.rows, samples, pieces[part], x_.view());
        model::normalize_inputs<float>(
            config_, norms_,
            std::as_const(x_).view().slice_rows(0, pieces[part].batch.num_tokens()), saved_);
        model::key_value_backward<float>(config_, norms_, linears_, rope_, pieces[part].batch,
                                         saved_);
      }
    }
    return loss / static_cast<double>(batch_.num_tokens() * config_.hidden_size);
  }

  // Calls f(rows of the piece, rows of the set) for each sample of a piece.
  template <class F>
  void for_rows(const std::vector<int64_t>& samples, const model::Piece& piece, const F& f) const {
    for (int64_t s = 0; s < piece.batch.num_sequences(); ++s) {
      const int64_t sample = samples[static_cast<size_t>(piece.first + s)];
      const int64_t source =
          inputs_.samples.offsets[static_cast<size_t>(sample)] + piece.batch.past;
      f(piece.batch.offsets[static_cast<size_t>(s)], source, piece.batch.length(s));
    }
  }

  void gather(const model::TokenRows& set, const std::vector<int64_t>& samples,
              const model::Piece& piece, MatView<float> target) const {
    for_rows(samples, piece, [&](int64_t row, int64_t source, int64_t count) {
      parallel_for_ranges(count, 64, [&](int64_t begin, int64_t end) {
        std::copy_n(set.row(source + begin), (end - begin) * config_.hidden_size,
                    target.row(row + begin));
      });
      set.drop(source, source + count);
    });
  }

  // Sum of the absolute errors of y, which becomes its gradient. Errors are summed row by row and
  // rows in order, so that threads do not matter.
  double lose(const std::vector<int64_t>& samples, const model::Piece& piece, MatView<float> y) {
    for_rows(samples, piece, [&](int64_t row, int64_t source, int64_t count) {
      parallel_for_ranges(count, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          row_losses_[row + i] = model::kernels::l1_loss(
              y.row(row + i), targets_.rows.row(source + i), 1.0f, y.row(row + i), y.cols);
      });
      targets_.rows.drop(source, source + count);
    });
    double sum = 0;
    for (int64_t i = 0; i < y.rows; ++i) sum += row_losses_[i];
    return sum;
  }

  const hf::Config& config_;
  model::LayerNorms<float> norms_;
  const model::Rope<float>& rope_;
  const model::HiddenStates& inputs_;
  const model::HiddenStates& targets_;
  TrainableLinears& trainable_;
  model::OnlineLinears linears_;
  int64_t max_tokens_;
  bool is_whole_, mlp_only_;
  int64_t piece_tokens_;
  model::LayerSaved<float> saved_;
  model::Ragged batch_;
  Mat<float> x_, y_;
  Buffer<double> row_losses_;
  model::TokenRows attended_;      // what enters the MLP, with mlp_only_
  std::vector<char> is_attended_;  // by sample
};

// What of n samples training looks at: up to kEvaluationSamples, spread evenly over the set, to
// measure on, and those it draws from. With until_flat the former, a quarter of the set at most,
// are held back from the latter, unless there is one sample only.
struct SampleUse {
  std::vector<int64_t> measured, drawn;
};
SampleUse use_samples(const TrainOptions& options, int64_t n) {
  SampleUse use;
  const int64_t most = options.until_flat ? std::max<int64_t>(n / 4, 1) : n;
  const int64_t count = std::min(most, kEvaluationSamples);
  for (int64_t i = 0; i < count; ++i) use.measured.push_back(i * n / count);
  for (int64_t s = 0; s < n; ++s)
    if (!options.until_flat || n == 1 || !std::ranges::binary_search(use.measured, s))
      use.drawn.push_back(s);
  return use;
}

// The samples of each iteration in turn.
class Draws {
 public:
  Draws(std::vector<int64_t> samples, uint32_t seed, int64_t layer_idx)
      : samples_(std::move(samples)) {
    std::seed_seq stream{seed, static_cast<uint32_t>(layer_idx)};
    generator_.seed(stream);
  }
  std::vector<int64_t> next() {
    std::vector<int64_t> drawn = random_permutation(generator_, std::ssize(samples_));
    drawn.resize(std::min<size_t>(drawn.size(), kSamplesPerIteration));
    for (int64_t& s : drawn) s = samples_[static_cast<size_t>(s)];
    return drawn;
  }

 private:
  std::vector<int64_t> samples_;
  std::mt19937 generator_;
};

// Leaves what is kept in `best`, which holds plain rounding.
void learn(const hf::Config& config, const model::LayerWeights& weights,
           const model::OnlineRotation& online, const TrainOptions& options,
           const model::Rope<float>& rope, const model::HiddenStates& inputs,
           const model::HiddenStates& targets, uint32_t seed, int64_t layer_idx,
           const TrainProgress& progress, TrainableLinears& linears, bool mlp_only,
           TrainableLinears::Snapshot& best, LayerReport& report) {
  BatchRunner runner(config, weights, online, options, rope, inputs, targets, linears, mlp_only,
                     best.directory);
  const SampleUse use = use_samples(options, inputs.samples.num_sequences());
  report.rounding_loss = report.loss = runner.evaluate(use.measured);

  Draws draws(use.drawn, seed, layer_idx);
  const auto forward = [&] {
    const double loss = runner.forward(draws.next());
    if (!std::isfinite(loss))
      throw Error(ErrorCode::kNumeric,
                  {.what = "the loss of iteration " + std::to_string(report.losses.size() + 1) +
                           " is not finite",
                   .where = "model.layers." + std::to_string(layer_idx),
                   .fix = "look for extreme weights in this layer"});
    report.losses.push_back(loss);
    return loss;
  };
  const auto step = [&](double lr) {
    linears.set_learning_rate(static_cast<float>(lr));
    runner.backward();
    if (progress) progress(std::ssize(report.losses), report.losses.back());
  };

  if (options.until_flat) {
    bool falls = true;
    for (int64_t done = 0; falls && done < options.iters; done = std::ssize(report.losses)) {
      const int64_t round = std::min(done == 0 ? kFirstRound : done, options.iters - done);
      // Rounds but the first refine what there is: half of the steps that one schedule of all
      // iterations so far would begin with.
      const double share =
          done == 0 ? 1 : 0.5 * static_cast<double>(round) / static_cast<double>(done + round);
      for (int64_t k = 0; k < round; ++k) {
        forward();
        step(learning_rate(k, round) * share);
      }
      const double loss = runner.evaluate(use.measured);
      falls = loss < (1 - kFlat) * report.loss;
      if (loss >= report.loss) continue;
      linears.save(best);
      report.loss = loss;
      report.kept_iteration = std::ssize(report.losses) + 1;
    }
    return;
  }

  BestRule rule;
  report.kept_iteration = 1;  // plain rounding
  for (int64_t k = 0; k < options.iters; ++k) {
    if (rule.accept(forward()) && k > 0) {
      linears.save(best);
      report.kept_iteration = k + 1;
    }
    step(learning_rate(k, options.iters));
  }

  // The rule judges by a few noisy losses and never sees the last update. Measure its choice, the
  // final parameters and plain rounding on one set of samples.
  const double final_loss = runner.evaluate(use.measured);
  TrainableLinears::Snapshot final_weights{best.directory};
  linears.save(final_weights);
  linears.apply(best);
  report.loss = runner.evaluate(use.measured);
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
}

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
  const SampleUse use = use_samples(options, num_samples);
  add(use.measured);
  Draws draws(use.drawn, seed, layer_idx);
  for (int64_t k = 0; k < options.iters && left > 0; ++k) add(draws.next());
  std::vector<int64_t> samples;
  for (int64_t s = 0; s < num_samples; ++s)
    if (seen[static_cast<size_t>(s)]) samples.push_back(s);
  return samples;
}

bool trains_attention(const LayerScheme& scheme) {
  for (const model::LinearGroup group : model::kAllLinearGroups)
    for (const model::Linear l : model::linears_of(group))
      if (model::is_attention(group) && scheme[static_cast<size_t>(l)]) return true;
  return false;
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

LayerResult train_layer(const hf::Config& config, model::LayerWeights& weights,
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
  TrainableLinears::Snapshot best{directory};
  linears.save(best);
  const int64_t num_samples = inputs.samples.num_sequences();
  if ((!options.enable_round_tuning && !options.enable_minmax_tuning) || num_samples == 0) {
    result.weights = best.codes();
    return result;
  }
  const bool mlp_only = !trains_attention(scheme);
  if (!directory.empty()) linears.put_weights_aside(weights, directory);
  learn(config, weights, online, options, rope, inputs, targets, seed, layer_idx, progress, linears,
        mlp_only, best, result.report);
  if (!directory.empty()) linears.restore_weights(weights);
  result.weights = best.codes();
  return result;
}

}  // namespace laos::autoround
