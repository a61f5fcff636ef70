#include "linalg/polar.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "linalg/kernels/dot.h"

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

// The largest magnitude of an eigenvalue of shift * I - g, g [n, n] normal, from below: the largest
// ratio of some steps of the power method from eight vectors of ±1. One far from the others', which
// is what matters to those who ask, is found to many digits.
double largest_eigenvalue(float shift, MatView<const float> g) {
  constexpr int64_t kVectors = 8, kSteps = 8;
  const int64_t n = g.rows;
  Mat<float> v(kVectors, n), next(kVectors, n);
  std::mt19937 generator(1);
  for (int64_t i = 0; i < v.size(); ++i) v.data()[i] = generator() % 2 == 1 ? 1.0f : -1.0f;
  double largest = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    parallel_for_ranges(n, 64, [&](int64_t begin, int64_t end) {
      kernels::dot_f32(v.data(), n, kVectors, g.row(begin), g.stride, end - begin, n,
                       next.data() + begin, n);
    });
    for (int64_t i = 0; i < kVectors; ++i) {
      double before = 0, after = 0;
      for (int64_t j = 0; j < n; ++j) {
        next(i, j) = shift * v(i, j) - next(i, j);
        before += static_cast<double>(v(i, j)) * v(i, j);
        after += static_cast<double>(next(i, j)) * next(i, j);
      }
      if (after == 0) continue;
      largest = std::max(largest, std::sqrt(after / before));
      const auto unit = static_cast<float>(std::sqrt(static_cast<double>(n) / after));
      for (int64_t j = 0; j < n; ++j) v(i, j) = next(i, j) * unit;
    }
  }
  return largest;
}

constexpr int64_t kBlock = 128, kRowPadding = 16;

// The lower Cholesky factor of symmetric positive definite z [n, n], in place of its lower
// triangle; and the inverses of the factor's diagonal blocks, one below another in `inverses` [n,
// kBlock]. False where z is not positive definite.
bool factor_lower(MatView<float> z, MatView<float> inverses) {
  const int64_t n = z.rows;
  for (int64_t k = 0; k < n; k += kBlock) {
    const int64_t size = std::min(kBlock, n - k);
    const MatView<float> diagonal = z.slice_rows(k, k + size).slice_cols(k, k + size);
    // Rows are updated whole, so that the inner loops are vector operations.
    std::vector<double> l(static_cast<size_t>(size * size), 0.0), inverse(l),
        column(static_cast<size_t>(size));
    const auto row_of = [size](std::vector<double>& m, int64_t i) { return m.data() + i * size; };
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j <= i; ++j) row_of(l, i)[j] = diagonal.row(i)[j];
    for (int64_t j = 0; j < size; ++j) {
      const double pivot = row_of(l, j)[j];
      if (!(pivot > 0)) return false;
      row_of(l, j)[j] = std::sqrt(pivot);
      for (int64_t i = j + 1; i < size; ++i)
        column[static_cast<size_t>(i)] = row_of(l, i)[j] /= row_of(l, j)[j];
      for (int64_t i = j + 1; i < size; ++i) {
        double* row = row_of(l, i);
        for (int64_t p = j + 1; p <= i; ++p) row[p] -= row[j] * column[static_cast<size_t>(p)];
      }
    }
    for (int64_t i = 0; i < size; ++i) {
      double* row = row_of(inverse, i);
      row[i] = 1;
      for (int64_t p = 0; p < i; ++p) {
        const double* earlier = row_of(inverse, p);
        const double factor = row_of(l, i)[p];
        for (int64_t j = 0; j <= p; ++j) row[j] -= factor * earlier[j];
      }
      for (int64_t j = 0; j <= i; ++j) row[j] /= row_of(l, i)[i];
    }
    const MatView<float> block_inverse = inverses.slice_rows(k, k + size).slice_cols(0, size);
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j < size; ++j) {
        if (j <= i) diagonal.row(i)[j] = static_cast<float>(row_of(l, i)[j]);
        block_inverse.row(i)[j] = static_cast<float>(row_of(inverse, i)[j]);
      }
    // Below: L21 = Z21 L11⁻ᵀ, then Z22 -= L21 L21ᵀ, its lower triangle a block row at a time.
    const int64_t rest = k + size;
    if (rest == n) break;
    constexpr int64_t kRows = 256;
    parallel_for_ranges(n - rest, kRows, [&](int64_t begin, int64_t end) {
      const MatView<float> panel = z.slice_rows(rest + begin, rest + end).slice_cols(k, rest);
      Mat<float> copy(panel.rows, size);
      for (int64_t i = 0; i < panel.rows; ++i) std::copy_n(panel.row(i), size, copy.row(i));
      gemm_one_thread(Trans::kNo, Trans::kYes, 1.0f, std::as_const(copy).view(),
                      MatView<const float>(block_inverse), 0.0f, panel);
    });
    parallel_for_ranges(n - rest, kRows, [&](int64_t begin, int64_t end) {
      const MatView<const float> panel = z.slice_rows(rest, rest + end).slice_cols(k, rest);
      gemm_one_thread(Trans::kNo, Trans::kYes, -1.0f, panel.slice_rows(begin, end), panel, 1.0f,
                      z.slice_rows(rest + begin, rest + end).slice_cols(rest, rest + end));
    });
  }
  return true;
}

// y = x (L Lᵀ)⁻¹ for what factor_lower left.
void solve_right(MatView<const float> l, MatView<const float> inverses, MatView<const float> x,
                 MatView<float> y) {
  const int64_t n = x.cols;
  parallel_for_ranges(x.rows, 256, [&](int64_t begin, int64_t end) {
    const MatView<float> rows = y.slice_rows(begin, end);
    for (int64_t i = 0; i < rows.rows; ++i) std::copy_n(x.row(begin + i), n, rows.row(i));
    Mat<float> part(rows.rows, kBlock);
    const auto block = [&](int64_t k, bool forth) {
      const int64_t stop = std::min(n, k + kBlock), size = stop - k;
      const MatView<float> target = rows.slice_cols(k, stop);
      if (forth && k > 0)  // y Lᵀ = x: what the columns before this block take away
        gemm_one_thread(Trans::kNo, Trans::kYes, -1.0f, MatView<const float>(rows.slice_cols(0, k)),
                        l.slice_rows(k, stop).slice_cols(0, k), 1.0f, target);
      if (!forth && stop < n)  // y L = x: those behind it
        gemm_one_thread(Trans::kNo, Trans::kNo, -1.0f,
                        MatView<const float>(rows.slice_cols(stop, n)),
                        l.slice_rows(stop, n).slice_cols(k, stop), 1.0f, target);
      const MatView<float> copy{part.data(), rows.rows, size, size};
      for (int64_t i = 0; i < rows.rows; ++i) std::copy_n(target.row(i), size, copy.row(i));
      gemm_one_thread(Trans::kNo, forth ? Trans::kYes : Trans::kNo, 1.0f,
                      MatView<const float>(copy), inverses.slice_rows(k, stop).slice_cols(0, size),
                      0.0f, target);
    };
    for (int64_t k = 0; k < n; k += kBlock) block(k, true);
    for (int64_t k = (n - 1) / kBlock * kBlock; k >= 0; k -= kBlock) block(k, false);
  });
}

// Coefficients of the dynamically weighted Halley step x (a + b xᵀx) (1 + c xᵀx)⁻¹ that is best
// when all singular values lie in [low, 1], and what it makes of `low` (Nakatsukasa, Bai and Gygi
// 2010).
struct Halley {
  double a, b, c, next_low;

  explicit Halley(double low) {
    const double l2 = low * low, gamma = std::cbrt(4 * (1 - l2) / (l2 * l2));
    const double root = std::sqrt(1 + gamma);
    a = root + 0.5 * std::sqrt(8 - 4 * gamma + 8 * (2 - l2) / (l2 * root));
    b = (a - 1) * (a - 1) / 4;
    c = a + b - 1;
    next_low = std::min(1.0, low * (a + b * l2) / (1 + c * l2));
  }
};

}  // namespace

double orthogonality_error(MatView<const float> q) {
  Mat<float> product(q.cols, q.cols);
  gram(q, product.view());
  return distance_from_identity(product.view());
}

double spectral_norm(MatView<const float> x) { return largest_eigenvalue(0, x); }

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

void newton_schulz_step(Mat<float>& q, ComputeType compute, NewtonSchulzRoom& room) {
  const int64_t rows = q.rows(), n = q.cols();
  const MatView<float> defect = grown(room.defect, n, n);
  const auto halve_what_misses = [&] {  // of what is qᵀq until then
    parallel_for(n, [&](int64_t i) {
      float* row = defect.row(i);
      for (int64_t j = 0; j < n; ++j) row[j] = 0.5f * ((i == j ? 1.0f : 0.0f) - row[j]);
    });
  };
  if (compute == ComputeType::kF32) {
    gram(std::as_const(q).view(), defect);
    halve_what_misses();
    const MatView<float> before = grown(room.before, rows, n);
    std::copy_n(q.data(), q.size(), before.data);
    gemm(Trans::kNo, Trans::kNo, 1.0f, before, defect, 1.0f, q.view());
    return;
  }
  const MatView<uint16_t> narrow_q = grown(room.narrow_q, rows, n),
                          narrow_defect = grown(room.narrow_defect, n, n);
  to_bf16(std::as_const(q).view(), narrow_q);
  gram_bf16(narrow_q, false, defect);
  halve_what_misses();
  to_bf16(defect, narrow_defect);
  gemm_bf16(Trans::kNo, Trans::kNo, narrow_q, narrow_defect, true, q.view());
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
  // Rows that lie a multiple of 4 KB apart halve the rate of small products.
  Mat<float> x_buffer(n, n + kRowPadding), gram_buffer(n, n + kRowPadding),
      next_buffer(n, n + kRowPadding);
  MatView<float> x = x_buffer.view().slice_cols(0, n), next = next_buffer.view().slice_cols(0, n);
  const MatView<float> gram_matrix = gram_buffer.view().slice_cols(0, n);
  parallel_for(n, [&](int64_t i) {
    std::copy_n(c.row(i), n, x.row(i));
    x.row(i)[i] += static_cast<float>(shift);
  });
  const double bound = spectral_norm_bound(x);
  const auto scale_all = static_cast<float>(1.0 / bound);
  parallel_for(n, [&](int64_t i) {
    for (int64_t j = 0; j < n; ++j) x.row(i)[j] *= scale_all;
  });

  // A step that trusted a smaller bound on the singular values than kLeast would need more digits
  // than f32 has; smaller ones are raised a hundredfold by each step that trusts it.
  constexpr double kLeast = 2e-3, kNear = 0.05, kLast = 3e-3;
  constexpr int kMaxIterations = 100;
  double low = std::min(1.0, 0.1 * shift / bound);
  PolarResult result;
  Mat<float> inverses(n, std::min(n, kBlock));
  for (double far = 1; far >= kLast && result.iterations < kMaxIterations; ++result.iterations) {
    gram(x, gram_matrix);
    far = largest_eigenvalue(1, gram_matrix);
    if (far < kNear) {
      // A Newton-Schulz step squares what is left, so that of kLast f32's own noise is left: next =
      // 1.5 x - 0.5 x (xᵀx).
      parallel_for(n, [&](int64_t i) { std::copy_n(x.row(i), n, next.row(i)); });
      gemm(Trans::kNo, Trans::kNo, -0.5f, MatView<const float>(x),
           MatView<const float>(gram_matrix), 1.5f, next);
      std::swap(x, next);
      continue;
    }
    // next = (b/c) x + (a - b/c) x (I + c xᵀx)⁻¹, best for what the smallest singular value is: as
    // the ridge has it (c is not symmetric, so that is no strict bound), or sqrt(1 - far) if less;
    // only a part of it, as `far` is a bound from below, and a loose one where many values are
    // small.
    const double smallest = std::sqrt(std::max(0.0, 1 - far)) * (far < 0.5 ? 0.9 : 0.25);
    const double trusted = std::max(kLeast, std::min(low, smallest));
    const Halley step(trusted);
    low = std::min(low / trusted, 1.0) * step.next_low;
    parallel_for(n, [&](int64_t i) {
      for (int64_t j = 0; j < n; ++j) gram_matrix.row(i)[j] *= static_cast<float>(step.c);
      gram_matrix.row(i)[i] += 1.0f;
    });
    const bool is_definite = factor_lower(gram_matrix, inverses.view());
    LAOS_ASSERT(is_definite);  // at least the identity
    solve_right(gram_matrix, std::as_const(inverses).view(), x, next);
    const auto kept = static_cast<float>(step.b / step.c),
               solved = static_cast<float>(step.a - step.b / step.c);
    parallel_for(n, [&](int64_t i) {
      for (int64_t j = 0; j < n; ++j) x.row(i)[j] = kept * x.row(i)[j] + solved * next.row(i)[j];
    });
  }
  result.orthogonality = orthogonality_error(x);
  if (!(result.orthogonality < 1e-4))
    throw Error(ErrorCode::kNumeric, {.what = "the polar factor did not converge: |QᵀQ - I| = " +
                                              std::to_string(result.orthogonality),
                                      .where = "polar factor of a " + std::to_string(n) + " x " +
                                               std::to_string(n) + " matrix",
                                      .fix = "this is a defect of laos; please report it"});
  result.factor = Mat<float>(n, n);
  parallel_for(n, [&](int64_t i) { std::copy_n(x.row(i), n, result.factor.row(i)); });
  return result;
}

}  // namespace laos::linalg
