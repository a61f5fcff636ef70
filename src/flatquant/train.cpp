#include "flatquant/train.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "core/threads.h"
#include "linalg/gemm.h"

namespace laos::flatquant {

using linalg::Trans;

namespace {

constexpr int kLargestCode = 7;
constexpr int64_t kRowGrain = 16;
// Chosen on SmolLM2, by the error on tokens that were not fitted to: 200 steps end 2 % lower, twice
// the tokens and outputs a step 1 %, and take twice as long.
constexpr int64_t kSteps = 100;
constexpr float kRate = 0.01f;                              // of Adam, falls to zero
constexpr int64_t kBatchTokens = 256, kBatchOutputs = 128;  // that a step looks at

// The element of a row with the largest magnitude.
template <class T>
int64_t largest_of(const T* x, int64_t n) {
  int64_t largest = 0;
  for (int64_t j = 1; j < n; ++j)
    if (std::fabs(x[j]) > std::fabs(x[largest])) largest = j;
  return largest;
}

// The size of a step of a row; 1 for a row of zeros.
template <class T>
T step_of(T largest, T clip) {
  return largest == 0 ? T(1) : clip * std::fabs(largest) / kLargestCode;
}

template <class T>
bool is_saturated(T steps) {
  return std::fabs(steps) > T(0.75);
}

// Rounded rows less the rows.
template <class T>
Mat<T> lost_of(const Mat<T>& x, const Mat<T>& steps, T clip) {
  Mat<T> lost(x.rows(), x.cols());
  parallel_for_ranges(x.rows(), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T step = step_of(x(i, largest_of(x.row(i), x.cols())), clip);
      for (int64_t j = 0; j < x.cols(); ++j)
        lost(i, j) = step * steps(i, j) - (is_saturated(steps(i, j)) ? x(i, j) : 0);
    }
  });
  return lost;
}

// d_x += of d_lost, behind lost_of; returns what log(clip) gets.
template <class T>
T add_gradient(const Mat<T>& x, const Mat<T>& steps, T clip, const Mat<T>& d_lost, Mat<T>& d_x) {
  Mat<T> of_clip(x.rows(), 1);
  parallel_for_ranges(x.rows(), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t largest = largest_of(x.row(i), x.cols());
      const T step = step_of(x(i, largest), clip);
      T d_step = 0;
      for (int64_t j = 0; j < x.cols(); ++j) {
        d_step += d_lost(i, j) * steps(i, j);
        if (is_saturated(steps(i, j))) d_x(i, j) -= d_lost(i, j);
      }
      of_clip(i, 0) = d_step * step;
      if (x(i, largest) != 0) d_x(i, largest) += d_step * step / x(i, largest);
    }
  });
  T sum = 0;
  for (int64_t i = 0; i < x.rows(); ++i) sum += of_clip(i, 0);
  return sum;
}

template <class T>
MatView<const T> in_rows_of(const Mat<T>& m, int64_t cols) {
  return {m.data(), m.size() / cols, cols, cols};
}

// c += sign aᵀ b, both viewed in rows as long as c's: sums of many rows, cut by their number.
template <class T>
void add_product(T sign, const Mat<T>& a, const Mat<T>& b, Mat<T>& c) {
  constexpr int64_t kRows = 1024;
  const MatView<const T> rows_a = in_rows_of(a, c.cols()), rows_b = in_rows_of(b, c.cols());
  const int64_t parts = (rows_a.rows + kRows - 1) / kRows;
  Mat<T> sums(parts, c.size());
  parallel_for(parts, [&](int64_t part) {
    const int64_t begin = part * kRows, end = std::min(rows_a.rows, begin + kRows);
    linalg::gemm_one_thread(Trans::kYes, Trans::kNo, sign, rows_a.slice_rows(begin, end),
                            rows_b.slice_rows(begin, end), T(0),
                            {sums.row(part), c.rows(), c.cols(), c.cols()});
  });
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t i = 0; i < c.size(); ++i) c.data()[i] += sums(part, i);
}

}  // namespace

template <class T>
Mat<T> rounding_steps(const Mat<T>& x, T clip) {
  Mat<T> steps(x.rows(), x.cols());
  parallel_for_ranges(x.rows(), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T step = step_of(x(i, largest_of(x.row(i), x.cols())), clip);
      for (int64_t j = 0; j < x.cols(); ++j) {
        const T value = x(i, j) / step, code = std::nearbyint(value);
        steps(i, j) = code > kLargestCode        ? T(kLargestCode)
                      : code < -kLargestCode - 1 ? T(-kLargestCode - 1)
                                                 : code - value;
      }
    }
  });
  return steps;
}

template <class T>
T rounding_loss(const Rounded<T>& rounded, T solved, PairGradient<T>& gradient) {
  const Mat<T>&z = rounded.z, &w = rounded.w;
  const int64_t in = z.cols(), l = gradient.left.rows(), r = gradient.right.rows();
  LAOS_ASSERT(w.cols() == in && in % (l * r) == 0);
  Mat<T> d_z(z.rows(), in), d_w(w.rows(), in), outputs(z.rows(), w.rows());
  // What the tokens lose, in the outputs.
  const Mat<T> z_lost = lost_of(z, rounded.z_steps, rounded.clip);
  linalg::gemm(Trans::kNo, Trans::kYes, T(1), z_lost.view(), w.view(), T(0), outputs.view());
  auto loss = static_cast<T>(square_norm(outputs));
  Mat<T> d_lost(z.rows(), in);
  linalg::gemm(Trans::kNo, Trans::kNo, T(2), outputs.view(), w.view(), T(0), d_lost.view());
  linalg::gemm(Trans::kYes, Trans::kNo, T(2), outputs.view(), z_lost.view(), T(0), d_w.view());
  // What the weights lose.
  const Mat<T> w_lost = lost_of(w, rounded.w_steps, T(1));
  linalg::gemm(Trans::kNo, Trans::kYes, T(1), z.view(), w_lost.view(), T(0), outputs.view());
  loss += solved * static_cast<T>(square_norm(outputs));
  linalg::gemm(Trans::kNo, Trans::kNo, 2 * solved, outputs.view(), w_lost.view(), T(0), d_z.view());
  Mat<T> d_w_lost(w.rows(), in);
  linalg::gemm(Trans::kYes, Trans::kNo, 2 * solved, outputs.view(), z.view(), T(0),
               d_w_lost.view());
  gradient.log_clip = add_gradient(z, rounded.z_steps, rounded.clip, d_lost, d_z);
  add_gradient(w, rounded.w_steps, T(1), d_w_lost, d_w);
  // z grows by z A, w by -w Aᵀ.
  gradient.left.fill_zero();
  gradient.right.fill_zero();
  add_product(T(1), z, d_z, gradient.right);
  add_product(T(-1), d_w, w, gradient.right);
  const auto turned = [&](const Mat<T>& m) { return transposed_blocks<T>(m.view(), l, r); };
  add_product(T(1), turned(z), turned(d_z), gradient.left);
  add_product(T(-1), turned(d_w), turned(w), gradient.left);
  return loss;
}

namespace {

// Adam's mean of a gradient and of its square, and the change that follows.
class Adam {
 public:
  explicit Adam(int64_t size) : mean_(1, size), square_(1, size) {
    mean_.fill_zero();
    square_.fill_zero();
  }
  // The change for the step'th gradient, in its place.
  void change(int64_t step, float rate, std::span<float> gradient) {
    constexpr float kMean = 0.9f, kSquare = 0.99f;
    const auto t = static_cast<float>(step);
    const float of_mean = 1 / (1 - std::pow(kMean, t)), of_square = 1 / (1 - std::pow(kSquare, t));
    for (size_t i = 0; i < gradient.size(); ++i) {
      float &mean = mean_.data()[i], &square = square_.data()[i];
      mean = kMean * mean + (1 - kMean) * gradient[i];
      square = kSquare * square + (1 - kSquare) * gradient[i] * gradient[i];
      gradient[i] = square == 0 ? 0 : -rate * of_mean * mean / std::sqrt(of_square * square);
    }
  }

 private:
  Mat<float> mean_, square_;
};

// `count` rows, or all, evenly apart from `first` on, and again from the front.
Mat<float> some_rows(MatView<const float> rows, int64_t first, int64_t count) {
  Mat<float> result(std::min(rows.rows, count), rows.cols);
  const int64_t stride = std::max<int64_t>(1, rows.rows / count);
  for (int64_t i = 0; i < result.rows(); ++i)
    std::copy_n(rows.row((first + i * stride) % rows.rows), rows.cols, result.row(i));
  return result;
}

std::span<float> values_of(Mat<float>& m) { return {m.data(), static_cast<size_t>(m.size())}; }

// m (I + change)
Mat<float> changed(const Mat<float>& m, const Mat<float>& change) {
  Mat<float> result = m.clone();
  linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, m.view(), change.view(), 1.0f, result.view());
  return result;
}

}  // namespace

Pair train(Pair start, MatView<const float> x, MatView<const float> weight, float clip,
           bool learns_clip, double solved) {
  Pair pair = std::move(start);
  const int64_t l = pair.left.rows(), r = pair.right.rows();
  PairGradient<float> gradient{.left = Mat<float>(l, l), .right = Mat<float>(r, r)};
  Adam of_left(l * l), of_right(r * r), of_clip(1);
  for (int64_t step = 1; step <= kSteps && x.rows > 0; ++step) {
    const std::optional<Mat<float>> left = inverse_transposed(pair.left),
                                    right = inverse_transposed(pair.right);
    if (!left || !right) break;
    Rounded<float> rounded{.z = some_rows(x, step - 1, kBatchTokens),
                           .w = some_rows(weight, step - 1, kBatchOutputs),
                           .z_steps = {},
                           .w_steps = {},
                           .clip = clip};
    transform_of(pair.left, pair.right).apply(rounded.z.view(), rounded.z.view());
    transform_of(*left, *right).apply(rounded.w.view(), rounded.w.view());
    rounded.z_steps = rounding_steps(rounded.z, clip);
    rounded.w_steps = rounding_steps(rounded.w, 1.0f);
    const float loss = rounding_loss(rounded, static_cast<float>(solved), gradient);
    if (!std::isfinite(loss)) break;
    const float rate = kRate * (1 - static_cast<float>(step - 1) / static_cast<float>(kSteps));
    of_left.change(step, rate, values_of(gradient.left));
    of_right.change(step, rate, values_of(gradient.right));
    of_clip.change(step, rate, {&gradient.log_clip, 1});
    pair.left = changed(pair.left, gradient.left);
    pair.right = changed(pair.right, gradient.right);
    if (learns_clip) clip = std::min(1.0f, clip * std::exp(gradient.log_clip));
  }
  return pair;
}

double train_flops(int64_t out_features, int64_t in_features, int64_t left, int64_t right,
                   int64_t num_tokens) {
  const auto tokens = static_cast<double>(std::min(num_tokens, kBatchTokens)),
             outputs = static_cast<double>(std::min(out_features, kBatchOutputs)),
             in = static_cast<double>(in_features), sides = static_cast<double>(left + right);
  // Three products each for what tokens and what weights lose; both through the pair, and two
  // products for its gradient.
  return static_cast<double>(kSteps) *
         (12 * tokens * outputs * in + 6 * (tokens + outputs) * in * sides);
}

template Mat<float> rounding_steps(const Mat<float>&, float);
template Mat<double> rounding_steps(const Mat<double>&, double);
template float rounding_loss(const Rounded<float>&, float, PairGradient<float>&);
template double rounding_loss(const Rounded<double>&, double, PairGradient<double>&);

}  // namespace laos::flatquant
