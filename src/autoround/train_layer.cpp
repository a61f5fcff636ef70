#include "autoround/train_layer.h"

#include <algorithm>
#include <cmath>
#include <span>
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
  // Where no linear of attention is trained, its output is computed once a sample.
  BatchRunner(const LayerProblem& problem, const TrainOptions& options, TrainableLinears& linears)
      : config_(problem.config),
        norms_(model::norms_of(problem.weights)),
        rope_(problem.rope),
        inputs_(problem.inputs),
        targets_(problem.targets),
        routes_(problem.routes),
        trainable_(linears),
        linears_(problem.online, linears, &linears),
        max_tokens_(largest_batch(inputs_.samples)),
        is_whole_(routes_ == nullptr && max_tokens_ <= options.max_whole_tokens),
        mlp_only_(!trains_attention(problem.scheme)),
        piece_tokens_(std::min(max_tokens_, model::kPieceTokens)),
        saved_(config_, is_whole_ ? max_tokens_ : piece_tokens_, true,
               is_whole_ ? 0 : model::longest_sample(inputs_.samples)),
        x_(piece_tokens_, config_.hidden_size),
        y_(is_whole_ ? max_tokens_ : piece_tokens_, config_.hidden_size),
        row_losses_(piece_tokens_) {
    LAOS_ASSERT((routes_ != nullptr) == (norms_.routers.experts != nullptr));
    saved_.compute = options.compute;
    if (!is_whole_) linears.keep_gradients();
    if (!mlp_only_) return;
    attended_ = model::TokenRows(inputs_.rows.rows(), inputs_.rows.cols(), problem.directory);
    is_attended_.resize(static_cast<size_t>(inputs_.samples.num_sequences()));
  }

  // Mean absolute error of the layer over `samples`. backward() may follow.
  double forward(const std::vector<int64_t>& samples) {
    return is_whole_ ? pass(samples, /*keeps=*/true) : pass_there_and_back(samples);
  }

  // The step. What goes back in pieces has been back already.
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
      const double mean = pass({samples.begin() + static_cast<std::ptrdiff_t>(begin),
                                samples.begin() + static_cast<std::ptrdiff_t>(end)},
                               /*keeps=*/false);
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

  // The pieces of a batch.
  std::vector<model::Piece> begin(const std::vector<int64_t>& samples) {
    batch_.offsets.assign(1, 0);
    for (const int64_t s : samples) {
      if (mlp_only_) attend(s);
      batch_.append(inputs_.samples.length(s));
    }
    return model::pieces_of(batch_, model::kPieceTokens);
  }

  // The layer over a batch; `keeps`: what backward needs of all its pieces.
  double pass(const std::vector<int64_t>& samples, bool keeps) {
    double loss = 0;
    for (const model::Piece& piece : begin(samples))
      loss += forward_piece(
          samples, piece,
          keeps ? model::Place{piece.begin, piece.begin - piece.batch.past} : model::Place{});
    return mean(loss);
  }

  // The same with each piece going back as soon as its loss is known.
  double pass_there_and_back(const std::vector<int64_t>& samples) {
    const std::vector<model::Piece> pieces = begin(samples);
    double loss = 0;
    for (size_t p = 0; p < pieces.size(); ++p) {
      const model::Ragged& batch = pieces[p].batch;
      loss += forward_piece(samples, pieces[p], {});
      const MatView<float> d_y = y_.view().slice_rows(0, batch.num_tokens());
      if (mlp_only_) {
        model::mlp_half_backward<float>(config_, norms_, linears_, batch, saved_, d_y, false);
        continue;
      }
      const bool goes_on = p + 1 < pieces.size() && pieces[p + 1].batch.past > 0;
      const bool is_part = batch.past > 0 || goes_on;
      model::piece_backward<float>(config_, norms_, linears_, rope_, batch, is_part, saved_, d_y);
      if (is_part && !goes_on)
        keys_back(samples, std::span(pieces).subspan(
                               p - static_cast<size_t>(batch.past / model::kPieceTokens),
                               static_cast<size_t>(batch.past / model::kPieceTokens) + 1));
    }
    return mean(loss);
  }

  // Gradients of k and v, of a sample whose last part has gone back.
  void keys_back(const std::vector<int64_t>& samples, std::span<const model::Piece> parts) {
    for (const model::Piece& part : parts) {
      gather(inputs_.rows, samples, part, x_.view());
      model::normalize_inputs<float>(
          config_, norms_, std::as_const(x_).view().slice_rows(0, part.batch.num_tokens()), saved_);
      model::key_value_backward<float>(config_, norms_, linears_, rope_, part.batch, saved_);
    }
  }

  // Sum of the absolute errors of a piece; their gradient stands at `place` in y_.
  double forward_piece(const std::vector<int64_t>& samples, const model::Piece& piece,
                       model::Place place) {
    const int64_t n = piece.batch.num_tokens();
    const MatView<float> y = y_.view().slice_rows(place.row, place.row + n);
    if (routes_ != nullptr) hold_routes(samples, piece);
    if (mlp_only_) {
      gather(attended_, samples, piece, saved_.hidden.view().slice_rows(place.row, place.row + n));
      model::mlp_half_forward<float>(config_, norms_, linears_, saved_, y, place);
    } else {
      gather(inputs_.rows, samples, piece, x_.view());
      model::layer_forward<float>(config_, norms_, linears_, rope_, piece.batch,
                                  std::as_const(x_).view().slice_rows(0, n), saved_, y, place);
    }
    return lose(samples, piece, y);
  }

  double mean(double loss) const {
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

  void hold_routes(const std::vector<int64_t>& samples, const model::Piece& piece) {
    const int64_t k = config_.num_experts_per_tok;
    held_experts_.resize(static_cast<size_t>(k * piece.batch.num_tokens()));
    held_weights_.resize(held_experts_.size());
    for_rows(samples, piece, [&](int64_t row, int64_t source, int64_t count) {
      std::copy_n(routes_->experts.begin() + k * source, k * count,
                  held_experts_.begin() + k * row);
      std::copy_n(routes_->weights.begin() + k * source, k * count,
                  held_weights_.begin() + k * row);
    });
    saved_.mixture.held_experts = held_experts_;
    saved_.mixture.held_weights = held_weights_;
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
  const TokenRoutes* routes_;
  TrainableLinears& trainable_;
  model::OnlineLinears linears_;
  int64_t max_tokens_;
  bool is_whole_, mlp_only_;
  int64_t piece_tokens_;
  model::LayerSaved<float> saved_;
  model::Ragged batch_;
  Mat<float> x_, y_;  // [tokens of a piece or of the batch, hidden_size]
  Buffer<double> row_losses_;
  model::TokenRows attended_;      // what enters the MLP, with mlp_only_
  std::vector<char> is_attended_;  // by sample
  std::vector<int32_t> held_experts_;  // of a piece
  std::vector<float> held_weights_;
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

// The iterations of a layer.
class Training {
 public:
  // Leaves what is kept in `best`, which holds plain rounding.
  Training(const LayerProblem& problem, const TrainOptions& options, const TrainProgress& progress,
           TrainableLinears& linears, TrainableLinears::Snapshot& best)
      : problem_(problem),
        options_(options),
        progress_(progress),
        linears_(linears),
        best_(best),
        runner_(problem, options, linears),
        use_(use_samples(options, problem.inputs.samples.num_sequences())),
        draws_(use_.drawn, problem.seed, problem.layer_idx) {}

  LayerReport run() {
    report_.rounding_loss = report_.loss = runner_.evaluate(use_.measured);
    if (options_.until_flat)
      learn_in_rounds();
    else
      learn_by_rule();
    return std::move(report_);
  }

 private:
  void learn_in_rounds() {
    bool falls = true;
    for (int64_t done = 0; falls && done < options_.iters; done = std::ssize(report_.losses)) {
      const int64_t round = std::min(done == 0 ? kFirstRound : done, options_.iters - done);
      // Rounds but the first refine what there is: half of the steps that one schedule of all
      // iterations so far would begin with.
      const double share =
          done == 0 ? 1 : 0.5 * static_cast<double>(round) / static_cast<double>(done + round);
      for (int64_t k = 0; k < round; ++k) {
        forward();
        step(learning_rate(options_.lr_scale, k, round) * share);
      }
      const double loss = runner_.evaluate(use_.measured);
      falls = loss < (1 - kFlat) * report_.loss;
      if (loss >= report_.loss) continue;
      linears_.save(best_);
      report_.loss = loss;
      report_.kept_iteration = std::ssize(report_.losses) + 1;
    }
  }

  void learn_by_rule() {
    BestRule rule;
    report_.kept_iteration = 1;  // plain rounding
    for (int64_t k = 0; k < options_.iters; ++k) {
      if (rule.accept(forward()) && k > 0) {
        linears_.save(best_);
        report_.kept_iteration = k + 1;
      }
      step(learning_rate(options_.lr_scale, k, options_.iters));
    }

    // The rule judges by a few noisy losses and never sees the last update. Measure its choice, the
    // final parameters and plain rounding on one set of samples.
    const double final_loss = runner_.evaluate(use_.measured);
    TrainableLinears::Snapshot final_weights{best_.directory};
    linears_.save(final_weights);
    linears_.apply(best_);
    report_.loss = runner_.evaluate(use_.measured);
    if (final_loss <= report_.loss) {
      report_.loss = final_loss;
      report_.kept_iteration = options_.iters + 1;
      best_ = std::move(final_weights);
    }
    if (report_.rounding_loss < report_.loss) {
      linears_.reset();
      linears_.save(best_);
      report_.loss = report_.rounding_loss;
      report_.kept_iteration = 0;
    }
  }

  double forward() {
    const double loss = runner_.forward(draws_.next());
    if (!std::isfinite(loss))
      throw Error(ErrorCode::kNumeric,
                  {.what = "the loss of iteration " + std::to_string(report_.losses.size() + 1) +
                           " is not finite",
                   .where = hf::layer_name(problem_.config, problem_.layer_idx),
                   .fix = "look for extreme weights in this layer"});
    report_.losses.push_back(loss);
    return loss;
  }

  void step(double lr) {
    linears_.set_learning_rate(static_cast<float>(lr));
    runner_.backward();
    if (progress_) progress_(std::ssize(report_.losses), report_.losses.back());
  }

  const LayerProblem& problem_;
  const TrainOptions& options_;
  const TrainProgress& progress_;
  TrainableLinears& linears_;
  TrainableLinears::Snapshot& best_;
  BatchRunner runner_;
  const SampleUse use_;
  Draws draws_;
  LayerReport report_;
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
      if (model::is_attention(group) && scheme[l]) return true;
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

LayerResult train_layer(const LayerProblem& problem, const TrainOptions& options,
                        const TrainProgress& progress) {
  LayerResult result;
  const bool any = std::any_of(problem.scheme.begin(), problem.scheme.end(),
                               [](const auto& spec) { return spec.has_value(); });
  if (!any) return result;
  TrainableLinears linears(problem.weights, problem.scheme, options, problem.untrained,
                           problem.online);
  TrainableLinears::Snapshot best{problem.directory};
  linears.save(best);
  const bool is_tuned = options.enable_round_tuning || options.enable_minmax_tuning;
  if (is_tuned && problem.inputs.samples.num_sequences() > 0) {
    const bool in_files = !problem.directory.empty();
    if (in_files) linears.put_weights_aside(problem.weights, problem.directory);
    result.report = Training(problem, options, progress, linears, best).run();
    if (in_files) linears.restore_weights(problem.weights);
  }
  result.weights = best.codes();
  return result;
}

}  // namespace laos::autoround
