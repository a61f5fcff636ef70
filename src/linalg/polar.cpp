#include "linalg/polar.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/threads.h"
#include "linalg/gemm.h"

namespace laos::linalg {
namespace {

// Sums rows in a fixed order, so that it does not depend on threads.
double frobenius_norm(MatView<const float> x) {
  std::vector<double> row_sums(static_cast<size_t>(x.rows));
  parallel_for(x.rows, [&](int64_t i) {
    double sum = 0;
    for (int64_t j = 0; j < x.cols; ++j) sum += static_cast<double>(x.row(i)[j]) * x.row(i)[j];
    row_sums[static_cast<size_t>(i)] = sum;
  });
  double total = 0;
  for (const double sum : row_sums) total += sum;
  return std::sqrt(total);
}

// ‖x‖₂ <= sqrt(‖x‖₁ ‖x‖∞) and <= ‖x‖_F.
double spectral_norm_bound(MatView<const float> x) {
  std::vector<double> col_sums(static_cast<size_t>(x.cols), 0.0);
  double max_row = 0;
  for (int64_t i = 0; i < x.rows; ++i) {
    double row_sum = 0;
    for (int64_t j = 0; j < x.cols; ++j) {
      const double magnitude = std::fabs(x.row(i)[j]);
      row_sum += magnitude;
      col_sums[static_cast<size_t>(j)] += magnitude;
    }
    max_row = std::max(max_row, row_sum);
  }
  const double max_col = *std::max_element(col_sums.begin(), col_sums.end());
  return std::min(std::sqrt(max_row * max_col), frobenius_norm(x));
}

double distance_from_identity(MatView<const float> gram_matrix) {
  double largest = 0;
  for (int64_t i = 0; i < gram_matrix.rows; ++i)
    for (int64_t j = 0; j < gram_matrix.cols; ++j)
      largest = std::max(
          largest, std::fabs(static_cast<double>(gram_matrix.row(i)[j]) - (i == j ? 1.0 : 0.0)));
  return largest;
}

}  // namespace

double orthogonality_error(MatView<const float> q) {
  Mat<float> product(q.cols, q.cols);
  gram(q, product.view());
  return distance_from_identity(product.view());
}

void reorthogonalize(Mat<float>& q) {
  Mat<float> gram_matrix(q.cols(), q.cols());
  for (int step = 0; step < 2; ++step) {
    gram(q.view(), gram_matrix.view());
    Mat<float> next = q.clone();
    gemm(Trans::kNo, Trans::kNo, -0.5f, std::as_const(q).view(), gram_matrix.view(), 1.5f,
         next.view());
    q = std::move(next);
  }
}

PolarResult polar_factor(MatView<const float> c, double ridge) {
  const int64_t n = c.rows;
  LAOS_ASSERT(c.cols == n && n > 0 && ridge > 0);
  const double norm = frobenius_norm(c);
  if (!std::isfinite(norm))
    throw Error(ErrorCode::kNumeric, {.what = "a matrix to orthogonalise holds NaN or infinity",
                                      .where = "polar factor",
                                      .fix = "look for NaN in the activations"});
  const double shift = norm > 0 ? ridge * norm / std::sqrt(static_cast<double>(n)) : 1.0;
  Mat<float> x(n, n), gram_matrix(n, n), next(n, n);
  parallel_for(n, [&](int64_t i) {
    std::copy_n(c.row(i), n, x.row(i));
    x(i, i) += static_cast<float>(shift);
  });
  // Five percent above the bound: the first steps' polynomial crosses 0 at 1, and a large singular
  // value that it sent near 0 would come back with its rounding errors enlarged.
  const double bound = 1.05 * spectral_norm_bound(x.view());
  const auto scale_all = static_cast<float>(1.0 / bound);
  parallel_for(n, [&](int64_t i) {
    for (int64_t j = 0; j < n; ++j) x(i, j) *= scale_all;
  });

  // `low` bounds the singular values that count from below; smaller ones (c is not symmetric, so
  // the ridge is no strict bound) only need more steps, which the convergence test below grants.
  double low = std::min(1.0, 0.1 * shift / bound);
  constexpr int kMaxIterations = 100;
  PolarResult result;
  double previous = 1e300;
  for (int k = 0; k < kMaxIterations; ++k) {
    gram(x.view(), gram_matrix.view());
    const double error = distance_from_identity(gram_matrix.view());
    // Stop at f32's own noise: below the target and no longer falling.
    if (error < 1e-5 && error > 0.5 * previous) break;
    previous = error;
    const double a = low < 0.999 ? std::sqrt(3.0 / (1.0 + low + low * low)) : 1.0;
    low = std::min(1.0, 0.5 * a * low * (3.0 - a * a * low * low));
    // next = 1.5 a x - 0.5 a³ x (xᵀx)
    parallel_for(n, [&](int64_t i) { std::copy_n(x.row(i), n, next.row(i)); });
    gemm(Trans::kNo, Trans::kNo, static_cast<float>(-0.5 * a * a * a), x.view(), gram_matrix.view(),
         static_cast<float>(1.5 * a), next.view());
    std::swap(x, next);
    result.iterations = k + 1;
  }
  result.orthogonality = orthogonality_error(x.view());
  if (!(result.orthogonality < 1e-4))
    throw Error(ErrorCode::kNumeric, {.what = "the polar factor did not converge: |QᵀQ - I| = " +
                                              std::to_string(result.orthogonality),
                                      .where = "polar factor of a " + std::to_string(n) + " x " +
                                               std::to_string(n) + " matrix",
                                      .fix = "this is a defect of laos; please report it"});
  result.factor = std::move(x);
  return result;
}

}  // namespace laos::linalg
