#include "rotation/fit.h"

#include <algorithm>
#include <cmath>

#include "core/words.h"
#include "linalg/gemm.h"
#include "linalg/hadamard.h"
#include "linalg/polar.h"
#include "rotation/token_range.h"

namespace laos::rotation {

using linalg::Trans;
using model::Linear;

namespace {

// "name q_proj, ... or up_proj": the linears whose inputs can be fitted to.
std::string name_a_reader() {
  std::vector<std::string> names;
  for (const model::LinearGroup group : model::kAllLinearGroups)
    if (hf::reads_residual(group))
      for (const Linear l : model::linears_of(group)) names.emplace_back(hf::short_name(l));
  return "name " + listed(names, "or");
}

bool is_of_mlp(Linear l) { return hf::group_of(l) == model::LinearGroup::kGateUp; }

}  // namespace

FitOptions default_fit(FitObjective objective) {
  FitOptions options;
  options.objective = objective;
  if (objective == FitObjective::kTokenRange) {
    options.steps = 200;
    options.layer_type = {std::string(hf::short_name(Linear::kQProj)),
                          std::string(hf::short_name(Linear::kUpProj))};  // an input of each norm
  }
  return options;
}

std::vector<Linear> fitted_linears(const hf::Config& config, const FitOptions& options) {
  std::vector<Linear> linears;
  Problems problems;
  for (const Linear l : model::kAllLinears) {
    const std::string path(model::path_of(config, l));
    const bool named =
        std::any_of(options.layer_type.begin(), options.layer_type.end(),
                    [&](const std::string& part) { return path.find(part) != std::string::npos; });
    if (!named) continue;
    if (!hf::reads_residual(hf::group_of(l)))
      problems.add(
          {.what =
               path +
               " does not read the residual stream, so its input cannot fit the global rotation",
           .where = "layer_type",
           .fix = name_a_reader()});
    linears.push_back(l);
  }
  if (linears.empty())
    problems.add({.what = "no linear of a decoder layer has any of these in its name",
                  .where = "layer_type",
                  .fix = name_a_reader()});
  problems.throw_if_any(ErrorCode::kRecipe);
  return linears;
}

namespace {

// Inputs of a layer that are fitted to: of q, k and v, of gate and up.
int64_t num_fitted_inputs(const hf::Config& config, const FitOptions& options) {
  bool attention = false, mlp = false;
  for (const Linear l : fitted_linears(config, options)) (is_of_mlp(l) ? mlp : attention) = true;
  return (attention ? 1 : 0) + (mlp ? 1 : 0);
}

}  // namespace

int64_t num_fit_rows(const hf::Config& config, const FitOptions& options,
                     const model::Ragged& samples, int64_t chunks) {
  int64_t rows = 0;
  for (int64_t s = 0; s < samples.num_sequences(); ++s) rows += std::min(chunks, samples.length(s));
  rows *= num_fitted_inputs(config, options);
  return config.num_hidden_layers * std::min(rows, options.max_samples);
}

int64_t enough_tokens(const hf::Config& config, const FitOptions& options) {
  return 2 * options.max_samples / num_fitted_inputs(config, options);
}

int64_t chunks_for_full_rank(const hf::Config& config, const FitOptions& options,
                             const model::Ragged& samples) {
  const auto is_enough = [&](int64_t chunks) {
    return num_fit_rows(config, options, samples, chunks) >= config.hidden_size;
  };
  int64_t most = model::longest_sample(samples);
  if (!is_enough(most)) return 0;
  int64_t least = 1;
  while (least < most) {
    const int64_t middle = least + (most - least) / 2;
    if (is_enough(middle))
      most = middle;
    else
      least = middle + 1;
  }
  return least;
}

ActivationRows::ActivationRows(const hf::Config& config, FitOptions options,
                               const model::Ragged& samples, int64_t chunks,
                               const model::SampleRange* share)
    : hidden_size_(config.hidden_size),
      options_(std::move(options)),
      samples_(samples),
      chunks_(chunks) {
  LAOS_ASSERT(chunks >= 1);
  for (const Linear l : fitted_linears(config, options_))
    (is_of_mlp(l) ? mlp_input_ : attention_input_).is_fitted = true;
  const int64_t num_inputs = (attention_input_.is_fitted ? 1 : 0) + (mlp_input_.is_fitted ? 1 : 0);
  const model::SampleRange own =
      share != nullptr ? *share : model::SampleRange{0, samples.num_sequences()};
  for (int64_t s = 0; s < samples.num_sequences(); ++s) {
    num_rows_ += num_inputs * std::min(chunks, samples.length(s));
    if (s < own.first) first_row_ = num_rows_;
    if (s < own.last) last_row_ = num_rows_;
  }
  num_kept_ = std::min(num_rows_, options_.max_samples);
  first_sample_ = own.first;
  while (first_kept_ < num_kept_ && wanted(first_kept_) < first_row_) ++first_kept_;
  last_kept_ = first_kept_;
  while (last_kept_ < num_kept_ && wanted(last_kept_) < last_row_) ++last_kept_;
  rows_ = Mat<float>(config.num_hidden_layers * (last_kept_ - first_kept_), hidden_size_);
  for (Reader* reader : {&attention_input_, &mlp_input_})
    reader->mean.resize(static_cast<size_t>(hidden_size_));
  begin_layer();
}

// trunc(linspace(0, num_rows - 1, num_kept)): all of them when none is dropped.
int64_t ActivationRows::wanted(int64_t kept) const noexcept {
  if (num_kept_ == 1) return kept == 0 ? 0 : num_rows_;
  return kept * (num_rows_ - 1) / (num_kept_ - 1);
}

void ActivationRows::begin_layer() noexcept {
  row_ = first_row_;
  kept_ = first_kept_;
  attention_input_.sample = mlp_input_.sample = first_sample_;
}

void ActivationRows::add_means(const model::Ragged& batch, const Mat<float>& inputs,
                               Reader& reader) {
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    const int64_t first = batch.offsets[static_cast<size_t>(s)];
    // Positions in the sample, which may have begun in an earlier batch.
    const int64_t seen = batch.past, last = batch.past + batch.length(s);
    const int64_t length = samples_.length(reader.sample), parts = std::min(chunks_, length);
    for (int64_t p = seen * parts / length; p < parts; ++p) {
      const int64_t begin = p * length / parts, end = (p + 1) * length / parts;
      if (end <= seen) continue;
      if (begin >= last) break;
      const int64_t wanted_row = wanted(kept_);
      if (begin >= seen) std::fill(reader.mean.begin(), reader.mean.end(), 0.0);
      // Means of parts that are not kept matter only where it is not known yet.
      if (row_ == wanted_row || end > last || begin < seen)
        for (int64_t i = std::max(begin, seen); i < std::min(end, last); ++i)
          for (int64_t j = 0; j < hidden_size_; ++j)
            reader.mean[static_cast<size_t>(j)] += inputs(first + i - seen, j);
      if (end > last) break;
      if (row_++ != wanted_row) continue;
      ++kept_;
      float* row = rows_.row(num_taken_++);
      for (const double sum : reader.mean)
        *row++ = static_cast<float>(sum / static_cast<double>(end - begin));
    }
    if (last == length) ++reader.sample;
  }
}

void ActivationRows::observe(const model::Ragged& batch, model::LayerSaved<float>& saved) {
  if (attention_input_.is_fitted) add_means(batch, saved.input_normed, attention_input_);
  if (mlp_input_.is_fitted) add_means(batch, saved.hidden_normed, mlp_input_);
}

void ActivationRows::finish_layer() {
  LAOS_ASSERT(row_ == last_row_ && kept_ == last_kept_);
  begin_layer();
}

Mat<float> ActivationRows::take() {
  LAOS_ASSERT(num_taken_ == rows_.rows());
  return std::move(rows_);
}

namespace {

using Note = std::function<void(int64_t step, double loss)>;

// Step by step: A is rounded to B row by row, R_step is the orthogonal matrix nearest to mapping A
// onto B, A <- A R_step. R is the product of the steps up to the one with the least error of
// rounding; five steps in a row that are not better end the search. Returns R, empty for the
// identity.
Mat<float> fit_procrustes(Mat<float> a, const FitOptions& options, const Note& note,
                          int64_t& best_step) {
  const int64_t n = a.cols();
  Mat<float> b(a.rows(), n), next(a.rows(), n), correlation(n, n), product(n, n);

  Mat<float> accumulated;  // R_acc; empty = I
  Mat<float> best;         // likewise
  double best_loss = rounding_error(a.view(), options.quant_bits, b.view());
  note(0, best_loss);
  int64_t bad_steps = 0;
  for (int64_t step = 1; step <= options.steps; ++step) {
    linalg::gemm(Trans::kYes, Trans::kNo, 1.0f, a.view(), b.view(), 0.0f, correlation.view());
    Mat<float> r_step = linalg::polar_factor(correlation.view()).factor;
    linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, a.view(), r_step.view(), 0.0f, next.view());
    std::swap(a, next);
    if (accumulated.size() == 0) {
      accumulated = std::move(r_step);
    } else {
      linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, accumulated.view(), r_step.view(), 0.0f,
                   product.view());
      std::swap(accumulated, product);
    }
    const double loss = rounding_error(a.view(), options.quant_bits, b.view());
    note(step, loss);
    if (loss < best_loss) {
      best_loss = loss;
      best = accumulated.clone();
      best_step = step;
      bad_steps = 0;
    } else if (++bad_steps >= 5 && step >= 7) {
      break;
    }
  }
  return best;
}

}  // namespace

FitResult fit_rotation(Mat<float> rows, const FitOptions& options,
                       const std::function<void(const FitStep&)>& progress) {
  const int64_t n = rows.cols();
  if (rows.rows() == 0)
    throw Error(ErrorCode::kData, {.what = "no calibration activations to fit the rotation to",
                                   .where = "adapt_rotation stage 1",
                                   .fix = "give it a dataset with at least one sample"});
  const linalg::RandomHadamard hadamard(n, options.block_size);
  hadamard.apply_right(rows.view());
  FitResult result;
  const auto note = [&](int64_t step, double loss) {
    result.steps.push_back({step, loss});
    if (progress) progress(result.steps.back());
  };
  Mat<float> best = options.objective == FitObjective::kTokenRange
                        ? fit_token_range(std::move(rows), options, note, result.best_step)
                        : fit_procrustes(std::move(rows), options, note, result.best_step);
  Mat<float> rotation = hadamard.dense();
  if (best.size() != 0) {
    Mat<float> product(n, n);
    linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, rotation.view(), best.view(), 0.0f, product.view());
    std::swap(rotation, product);
    linalg::reorthogonalize(rotation);  // products of f32 steps drift
  }
  result.orthogonality = linalg::orthogonality_error(rotation.view());
  result.rotation = std::move(rotation);
  return result;
}

double fit_flops(const FitOptions& options, int64_t num_rows, int64_t n) {
  const auto rows = static_cast<double>(num_rows), size = static_cast<double>(n),
             steps = static_cast<double>(options.steps);
  const double squared = size * size, cubed = squared * size;
  if (options.objective == FitObjective::kTokenRange) {
    // A step: a batch rotated, its gradient, the turn, and a Newton-Schulz step; now and then two
    // more of these, and the rows held back rotated.
    const double batch = std::min<double>(rows, kRangeBatchRows);
    return steps * (4 * batch * squared + 5 * cubed);
  }
  // About 15 steps of 2 products make a polar factor.
  return steps * (4 * rows * squared + 60 * cubed);
}

int64_t fit_bytes(const FitOptions& options, int64_t num_rows, int64_t n) {
  const int64_t rows = 4 * num_rows * n, squared = n * n;
  if (options.objective == FitObjective::kTokenRange) {
    // Those held back three times; a batch, what it becomes and its gradient; the block, its best,
    // its momentum, the turn, a product, three of what a step works in, and two that make the
    // block orthogonal again.
    const int64_t batch = std::min(num_rows, kRangeBatchRows);
    return rows * 3 / 2 + 4 * (3 * batch * n + 10 * squared);
  }
  // A, what it is rounded to, the next A and scratch; eight matrices.
  return 4 * rows + 32 * squared;
}

}  // namespace laos::rotation
