#include "flatquant/small_matrix.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.h"
#include "linalg/polar.h"

namespace laos::flatquant {
namespace {

Mat<double> widened(MatView<const float> m) {
  Mat<double> wide(m.rows, m.cols);
  for (int64_t i = 0; i < m.rows; ++i)
    for (int64_t j = 0; j < m.cols; ++j) wide(i, j) = m.row(i)[j];
  return wide;
}

// m + damp * mean(diag(m)) I; nullopt without a positive diagonal.
std::optional<Mat<double>> damped(MatView<const float> m, double damp) {
  Mat<double> result = widened(m);
  double mean = 0;
  for (int64_t i = 0; i < m.rows; ++i) mean += result(i, i) / static_cast<double>(m.rows);
  if (!std::isfinite(mean) || mean <= 0) return std::nullopt;
  for (int64_t i = 0; i < m.rows; ++i) {
    result(i, i) += damp * mean;
    for (int64_t j = 0; j < m.cols; ++j) result(i, j) /= mean;  // its size does not matter
  }
  return result;
}

// L⁻ᵀ m for a lower triangular L, in place.
void solve_transposed(const Mat<double>& lower, Mat<double>& m) {
  for (int64_t i = lower.rows() - 1; i >= 0; --i) {
    for (int64_t k = i + 1; k < lower.rows(); ++k)
      for (int64_t j = 0; j < m.cols(); ++j) m(i, j) -= lower(k, i) * m(k, j);
    for (int64_t j = 0; j < m.cols(); ++j) m(i, j) /= lower(i, i);
  }
}

}  // namespace

std::optional<Mat<double>> inverse(MatView<const float> m) {
  LAOS_ASSERT(m.rows == m.cols);
  const int64_t n = m.rows;
  Mat<double> left = widened(m), result(n, n);
  result.fill_zero();
  for (int64_t i = 0; i < n; ++i) result(i, i) = 1;
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; ++i)
      if (std::fabs(left(i, k)) > std::fabs(left(pivot, k))) pivot = i;
    const double value = left(pivot, k);
    if (!std::isfinite(value) || std::fabs(value) < std::numeric_limits<double>::min())
      return std::nullopt;
    if (pivot != k) {
      std::swap_ranges(left.row(k), left.row(k) + n, left.row(pivot));
      std::swap_ranges(result.row(k), result.row(k) + n, result.row(pivot));
    }
    for (int64_t j = 0; j < n; ++j) {
      left(k, j) /= value;
      result(k, j) /= value;
    }
    for (int64_t i = 0; i < n; ++i) {
      const double factor = left(i, k);
      if (i == k || factor == 0) continue;
      for (int64_t j = 0; j < n; ++j) {
        left(i, j) -= factor * left(k, j);
        result(i, j) -= factor * result(k, j);
      }
    }
  }
  return result;
}

std::optional<Mat<double>> cholesky(const Mat<double>& m) {
  const int64_t n = m.rows();
  Mat<double> lower(n, n);
  lower.fill_zero();
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = m(i, j);
      for (int64_t k = 0; k < j; ++k) sum -= lower(i, k) * lower(j, k);
      if (i != j)
        lower(i, j) = sum / lower(j, j);
      else if (sum > 0)
        lower(i, i) = std::sqrt(sum);
      else
        return std::nullopt;
    }
  return lower;
}

std::optional<Mat<float>> mean_factor(MatView<const float> a, MatView<const float> b, double damp) {
  const int64_t n = a.rows;
  const std::optional<Mat<double>> a_damped = damped(a, damp), b_damped = damped(b, damp);
  if (!a_damped || !b_damped) return std::nullopt;
  const std::optional<Mat<double>> la = cholesky(*a_damped), lb = cholesky(*b_damped);
  if (!la || !lb) return std::nullopt;
  // With U the polar factor of Lbᵀ La: A⁻¹ # B = La⁻ᵀ Uᵀ Lbᵀ.
  Mat<float> product(n, n);  // Lbᵀ La
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t k = std::max(i, j); k < n; ++k) sum += (*lb)(k, i) * (*la)(k, j);
      product(i, j) = static_cast<float>(sum);
    }
  constexpr double kRidge = 1e-7;  // the product is far from singular
  const Mat<float> polar = linalg::polar_factor(std::as_const(product).view(), kRidge).factor;
  Mat<double> mean(n, n);  // Uᵀ Lbᵀ
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k <= j; ++k) sum += polar(k, i) * (*lb)(j, k);
      mean(i, j) = sum;
    }
  solve_transposed(*la, mean);
  for (int64_t i = 0; i < n; ++i)  // but for rounding it is symmetric
    for (int64_t j = 0; j < i; ++j) mean(i, j) = mean(j, i) = (mean(i, j) + mean(j, i)) / 2;
  const std::optional<Mat<double>> factor = cholesky(mean);
  if (!factor) return std::nullopt;
  double square = 0;
  for (int64_t i = 0; i < factor->size(); ++i) square += factor->data()[i] * factor->data()[i];
  const double scale = std::sqrt(static_cast<double>(n) / square);
  Mat<float> result(n, n);
  for (int64_t i = 0; i < factor->size(); ++i)
    result.data()[i] = static_cast<float>(scale * factor->data()[i]);
  return result;
}

}  // namespace laos::flatquant
