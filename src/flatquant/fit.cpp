#include "flatquant/fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "core/threads.h"
#include "flatquant/pair.h"
#include "flatquant/small_matrix.h"
#include "flatquant/train.h"
#include "linalg/gemm.h"
#include "linalg/hadamard.h"
#include "quant/int_weight.h"

namespace laos::flatquant {

using linalg::Trans;
using model::KroneckerTransform;

namespace {

constexpr int kBits = 4;
// Of the error of rounded weights this much counts, since solving for codes makes it smaller.
// Chosen on SmolLM2 (docs/accuracy.md).
constexpr double kSolved = 0.4;
constexpr int64_t kRounds = 4;            // of fitting left and right in turn
constexpr int64_t kMaxWeightRows = 4096;  // that a closed form looks at
constexpr int64_t kClipSteps = 20;        // from 1 down to 0.5
constexpr float kClipStep = 1.0f / 40;
// Of the mean diagonal, added to the moments that a pair is fitted to: little, and so much that the
// pair is half a Hadamard pair.
constexpr std::array kDamps = {0.01, 0.3};
constexpr float kLargestValue = 65504.0f / 8;

Mat<float> identity(int64_t n) {
  Mat<float> result(n, n);
  result.fill_zero();
  for (int64_t i = 0; i < n; ++i) result(i, i) = 1;
  return result;
}

Mat<float> times(const Mat<float>& a, const Mat<float>& b) {
  Mat<float> c(a.rows(), b.cols());
  linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, a.view(), b.view(), 0.0f, c.view());
  return c;
}

Mat<float> copied(MatView<const float> rows) {
  Mat<float> result(rows.rows, rows.cols);
  for (int64_t i = 0; i < rows.rows; ++i) std::copy_n(rows.row(i), rows.cols, result.row(i));
  return result;
}

// Every second row from `first` on.
Mat<float> every_second(MatView<const float> rows, int64_t first) {
  return copied({rows.row(first), (rows.rows - first + 1) / 2, rows.cols, 2 * rows.stride});
}

// Σ Y Yᵀ [m, m] over the blocks X [m, n] of all rows, Y = X by [m, n]; `by` [n, n].
Mat<float> moment(const Mat<float>& rows, const Mat<float>& by, int64_t m) {
  constexpr int64_t kChunk = 256;
  const int64_t n = by.rows();
  Mat<float> sum(m, m);
  sum.fill_zero();
  for (int64_t begin = 0; begin < rows.rows(); begin += kChunk) {
    Mat<float> product(std::min(kChunk, rows.rows() - begin), rows.cols());
    const int64_t blocks = product.size() / n;
    linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, {rows.row(begin), blocks, n, n}, by.view(), 0.0f,
                 {product.data(), blocks, n, n});
    const Mat<float> columns = transposed_blocks(std::as_const(product).view(), m, n);
    linalg::gram({columns.data(), columns.size() / m, m, m}, sum.view(), 1.0f);
  }
  return sum;
}

// left ⊗ right = P with the smallest E‖x P‖² * ‖W P⁻ᵀ‖², one of the two at a time. nullopt where
// the moments have no mean.
std::optional<Pair> closed(const Mat<float>& inputs, MatView<const float> weight, int64_t l,
                           int64_t r, double damp) {
  const int64_t stride = (weight.rows + kMaxWeightRows - 1) / kMaxWeightRows;
  const Mat<float> some = copied(
      {weight.data, (weight.rows + stride - 1) / stride, weight.cols, weight.stride * stride});
  const Mat<float> inputs_t = transposed_blocks<float>(inputs.view(), l, r),
                   some_t = transposed_blocks<float>(some.view(), l, r);
  // One factor, given the other: of what the inputs and the weights become by that.
  const auto solve = [&](const Mat<float>& x, const Mat<float>& w, const Mat<float>& other,
                         int64_t size) -> std::optional<Mat<float>> {
    const std::optional<Mat<float>> inverted = inverse_transposed(other);
    if (!inverted) return std::nullopt;
    return mean_factor(moment(x, other, size).view(), moment(w, *inverted, size).view(), damp);
  };
  Pair pair{.kind = "closed", .left = identity(l), .right = identity(r)};
  for (int64_t round = 0; round < kRounds; ++round) {
    std::optional<Mat<float>> left = solve(inputs, some, pair.right, l);
    if (!left) return std::nullopt;
    pair.left = std::move(*left);
    std::optional<Mat<float>> right = solve(inputs_t, some_t, pair.left, r);
    if (!right) return std::nullopt;
    pair.right = std::move(*right);
  }
  return pair;
}

// P H: ranges become flat, and what was minimised stays.
Pair flattened(Pair pair) {
  pair.left = times(pair.left, linalg::RandomHadamard(pair.left.rows()).dense());
  pair.right = times(pair.right, linalg::RandomHadamard(pair.right.rows()).dense());
  return pair;
}

// Rounded to `dtype`, and small enough for tokens of norms up to `largest_norm`: a row times P is
// at most its norm times that of P.
KroneckerTransform rounded(const Pair& pair, float largest_norm, DType dtype) {
  const auto norm = [](const Mat<float>& m) {
    // Of the symmetric square a row sum bounds the largest eigenvalue.
    double largest = 0;
    for (int64_t i = 0; i < m.rows(); ++i) {
      double sum = 0;
      for (int64_t k = 0; k < m.rows(); ++k) {
        double product = 0;
        for (int64_t j = 0; j < m.cols(); ++j) product += static_cast<double>(m(i, j)) * m(k, j);
        sum += std::fabs(product);
      }
      largest = std::max(largest, sum);
    }
    return std::sqrt(largest);
  };
  const double largest = largest_norm * norm(pair.left) * norm(pair.right);
  // A power of two changes no bit of what is quantized.
  const int shift =
      largest > kLargestValue ? static_cast<int>(std::ceil(std::log2(largest / kLargestValue))) : 0;
  KroneckerTransform transform = transform_of(pair.left, pair.right);
  for (int64_t i = 0; i < transform.left.size(); ++i)
    transform.left.data()[i] = round_to(dtype, std::ldexp(pair.left.data()[i], -shift));
  float factor = 1;
  if (transform.left.size() == 1) {
    factor = std::ldexp(pair.left(0, 0), -shift);
    transform.left(0, 0) = 1;
  }
  for (int64_t i = 0; i < transform.right.size(); ++i)
    transform.right.data()[i] = round_to(dtype, factor * pair.right.data()[i]);
  return transform;
}

// Random signs over sqrt(rows): of every vector the mean square norm of its product is its own.
Mat<float> random_signs(int64_t rows, int64_t cols) {
  std::mt19937 generator(1);
  Mat<float> signs(rows, cols);
  const float size = 1 / std::sqrt(static_cast<float>(rows));
  for (int64_t i = 0; i < signs.size(); ++i) signs.data()[i] = generator() % 2 == 0 ? size : -size;
  return signs;
}

// from -= what
void subtract(const Mat<float>& what, Mat<float>& from) {
  parallel_for(from.rows(), [&](int64_t i) {
    for (int64_t j = 0; j < from.cols(); ++j) from(i, j) -= what(i, j);
  });
}

// Judges pairs by the rows that they were not fitted to.
class Judge {
 public:
  Judge(Mat<float> inputs, MatView<const float> weight)
      : inputs_(std::move(inputs)),
        weight_(weight),
        mix_(weight.rows > kMixedOutputs ? random_signs(kMixedOutputs, weight.rows) : Mat<float>()),
        outputs_(std::max(square_norm(outputs_of(inputs_, mixed(weight_))),
                          std::numeric_limits<double>::min())) {}

  struct Verdict {
    double error = 0;
    float clip = 1;
  };
  // `pair` null: the linears as they are.
  Verdict judge(const KroneckerTransform* pair, bool clips) const {
    Mat<float> x = inputs_.clone();       // [n, in]
    Mat<float> weight = copied(weight_);  // [out, in]
    if (pair != nullptr) {
      pair->apply(inputs_.view(), x.view());
      // What f32 loses in fold()'s place is far below what 4 bits do.
      const std::optional<Mat<float>> left = inverse_transposed(pair->left),
                                      right = inverse_transposed(pair->right);
      LAOS_ASSERT(left && right);
      transform_of(*left, *right).apply(std::as_const(weight).view(), weight.view());
    }
    const Mat<float> mixed_weight = mixed(std::as_const(weight).view());
    const Mat<float> rounded =
        quant::dequantize(quant::quantize_rtn(std::as_const(weight).view(), {.bits = kBits}));
    subtract(rounded, weight);
    const double of_weights = square_norm(outputs_of(x, mixed(std::as_const(weight).view())));
    Verdict best{.error = -1};
    Mat<float> lost(x.rows(), x.cols());
    for (int64_t step = 0; step <= (clips ? kClipSteps : 0); ++step) {
      const float clip = 1 - static_cast<float>(step) * kClipStep;
      quant::fake_quantize_tokens(std::as_const(x).view(), {.bits = kBits}, lost.view(), clip);
      subtract(x, lost);
      const double error =
          (kSolved * of_weights + square_norm(outputs_of(lost, mixed_weight))) / outputs_;
      if (best.error < 0 || error < best.error) best = {.error = error, .clip = clip};
    }
    return best;
  }

 private:
  Mat<float> mixed(MatView<const float> weight) const {
    if (mix_.size() == 0) return copied(weight);
    Mat<float> result(mix_.rows(), weight.cols);
    linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, mix_.view(), weight, 0.0f, result.view());
    return result;
  }
  static Mat<float> outputs_of(const Mat<float>& x, const Mat<float>& weight) {
    Mat<float> y(x.rows(), weight.rows());
    linalg::gemm(Trans::kNo, Trans::kYes, 1.0f, x.view(), weight.view(), 0.0f, y.view());
    return y;
  }

  Mat<float> inputs_;
  MatView<const float> weight_;
  Mat<float> mix_;  // [kMixedOutputs, out]; empty: outputs are few
  double outputs_;
};

bool tries_all(Method method) { return method == Method::kAuto || method == Method::kTrain; }

std::vector<Pair> pairs_to_try(const Mat<float>& inputs, MatView<const float> weight, int64_t left,
                               int64_t right, Method method) {
  const auto tries = [&](Method one) { return method == one || tries_all(method); };
  std::vector<Pair> pairs;
  if (tries(Method::kNone)) pairs.push_back({"none", identity(left), identity(right)});
  if (tries(Method::kHadamard))
    pairs.push_back(flattened({"hadamard", identity(left), identity(right)}));
  if (tries(Method::kClosed)) {
    for (const double damp : kDamps)
      if (std::optional<Pair> pair = closed(inputs, weight, left, right, damp))
        pairs.push_back(flattened(std::move(*pair)));
    // Inputs of zeros.
    if (pairs.empty()) pairs.push_back(flattened({"hadamard", identity(left), identity(right)}));
  }
  return pairs;
}

}  // namespace

Fitted fit(const InputRows& rows, MatView<const float> weight, int64_t left, int64_t right,
           DType dtype, const FlatquantOptions& options) {
  const MatView<const float> all = rows.rows();
  LAOS_ASSERT(all.cols == weight.cols && all.cols % (left * right) == 0);
  const Mat<float> fitted = every_second(all, 0);
  const Judge judge(every_second(all, all.rows > 1 ? 1 : 0), weight);
  Fitted best;
  best.error = -1;
  // Whether it is the best so far.
  const auto consider = [&](const Pair& pair) {
    KroneckerTransform transform = rounded(pair, rows.largest_norm(), dtype);
    if (!inverse(transform.left.view()) || !inverse(transform.right.view())) return false;
    const Judge::Verdict verdict = judge.judge(&transform, options.clip);
    if (best.error >= 0 && !(verdict.error < best.error)) return false;
    transform.clip = verdict.clip;
    best.transform = std::move(transform);
    best.kind = pair.kind;
    best.error = verdict.error;
    return true;
  };
  Pair start;
  for (Pair& pair : pairs_to_try(fitted, weight, left, right, options.method))
    if (consider(pair)) start = std::move(pair);
  LAOS_ASSERT(best.transform.left.size() != 0);
  if (options.method == Method::kTrain) {
    start.kind += ", trained";
    consider(
        train(std::move(start), fitted.view(), weight, best.transform.clip, options.clip, kSolved));
  }
  best.plain_error = judge.judge(nullptr, false).error;
  return best;
}

void fold(const KroneckerTransform& transform, MatView<float> weight) {
  const std::optional<Mat<double>> left = inverse(transform.left.view()),
                                   right = inverse(transform.right.view());
  LAOS_ASSERT(left && right && weight.cols % transform.size() == 0);
  const int64_t l = left->rows(), r = right->rows();
  Mat<double> right_t(r, r);
  for (int64_t i = 0; i < r; ++i)
    for (int64_t j = 0; j < r; ++j) right_t(j, i) = (*right)(i, j);
  parallel_for(weight.rows, [&](int64_t row) {
    std::vector<double> part(static_cast<size_t>(l * r)), sums(static_cast<size_t>(r));
    for (int64_t block = 0; block < weight.cols; block += l * r) {
      float* values = weight.row(row) + block;  // [l, r]
      // part = left⁻¹ values
      std::fill(part.begin(), part.end(), 0.0);
      for (int64_t i = 0; i < l; ++i)
        for (int64_t k = 0; k < l; ++k) {
          const double factor = (*left)(i, k);
          for (int64_t j = 0; j < r; ++j)
            part[static_cast<size_t>(i * r + j)] += factor * values[k * r + j];
        }
      // values = part right⁻ᵀ
      for (int64_t i = 0; i < l; ++i) {
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int64_t k = 0; k < r; ++k) {
          const double factor = part[static_cast<size_t>(i * r + k)];
          for (int64_t j = 0; j < r; ++j) sums[static_cast<size_t>(j)] += factor * right_t(k, j);
        }
        for (int64_t j = 0; j < r; ++j)
          values[i * r + j] = static_cast<float>(sums[static_cast<size_t>(j)]);
      }
    }
  });
}

Cost cost_of(int64_t out_features, int64_t in_features, int64_t left, int64_t right,
             int64_t num_tokens, const FlatquantOptions& options) {
  const auto rows = static_cast<double>(std::min(num_tokens, InputRows::kMaxRows));
  const auto in = static_cast<double>(in_features), out = static_cast<double>(out_features);
  const auto sides = static_cast<double>(left + right);
  const double mixed = std::min(out, static_cast<double>(kMixedOutputs));
  const bool all = tries_all(options.method), is_closed = options.method == Method::kClosed || all;
  const double num_closed = is_closed ? static_cast<double>(kDamps.size()) : 0,
               num_pairs = num_closed +
                           (all         ? 2
                            : is_closed ? 0
                                        : 1) +
                           (options.method == Method::kTrain ? 1 : 0),
               trained = options.method == Method::kTrain
                             ? train_flops(out_features, in_features, left, right,
                                           static_cast<int64_t>(rows / 2))
                             : 0;
  const double seen = rows / 2 + std::min(out, static_cast<double>(kMaxWeightRows));
  // Products with both sides and with those of both moments; weights folded and mixed for each
  // pair; errors mixed for each clip.
  const double fitted = 4 * static_cast<double>(kRounds) * seen * in * sides,
               folded = 2 * out * in * sides + 4 * out * in * mixed,
               judged = 2 * static_cast<double>(kClipSteps + 3) * rows / 2 * in * mixed;
  return {.flops = num_closed * fitted + trained + (num_pairs + 1) * (folded + judged) +
                   2 * out * in * sides,
          .bytes = static_cast<int64_t>(
              4 * (in * (3.5 * rows + 4 * out + seen) + 2 * mixed * (in + out)))};
}

}  // namespace laos::flatquant
