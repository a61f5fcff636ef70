// Frantar et al. invert H, factor the inverse H⁻¹ = UᵀU and feed errors back through the rows of U.
// The same codes come from H's own factor: with H = R Rᵀ, R upper triangular, U = R⁻¹, and
//   tr((W - Ŵ) H (W - Ŵ)ᵀ) = ‖(W - Ŵ) R‖² = Σ_k R_kk² ‖v_k - ŵ_k‖²,
//   v_k = w_k + Σ_{j<k} (w_j - ŵ_j) R_jk / R_kk,
// so that rounding v_k is best given the columns before (Chee et al. 2023, arXiv:2307.13304, prove
// the two equal). One factorisation instead of two and an inversion: a quarter of the work,
// and nothing is inverted in f32. The factorisation is ours, not LAPACK's: its work is
// linalg::gemm, which has the same bits on any number of threads.
#include "quant/gptq.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "linalg/kernels/dot.h"
#include "quant/kernels/rows.h"
#include "quant/kernels/rows_scalar.h"

namespace laos::quant {
namespace {

using linalg::gemm;
using linalg::Trans;
using linalg::kernels::add_multiple;

// Rows of a task. Those that take step after step take each together: what a step of one row waits
// for is hidden behind the steps of the others.
constexpr int64_t kRowGrain = 16;
constexpr int64_t kTile = 128;  // columns of the factor between products

constexpr int64_t kVector = 16;  // columns that the vectors of every instruction set divide

// What is added to all columns of a block from `column` on may begin here where the columns between
// do not count any more.
int64_t begin_of_vector(int64_t column) { return column / kVector * kVector; }

void require_finite(MatView<const float> x, const std::string& name) {
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* bad = std::find_if_not(x.row(i), x.row(i) + x.cols,
                                          [](float value) { return std::isfinite(value); });
      if (bad != x.row(i) + x.cols)
        throw Error(
            ErrorCode::kNumeric,
            {.what = name + " holds NaN or infinity",
             .where = "row " + std::to_string(i) + ", column " + std::to_string(bad - x.row(i)),
             .fix = "look for NaN in the checkpoint's weights, then in the activations"});
    }
  });
}

// rows = rows * tile⁻¹, or rows * tile⁻ᵀ; `tile` [n, n] upper triangular, `rows` [any, n].
void solve_tile(MatView<const float> tile, Trans trans, MatView<float> rows) {
  const int64_t n = tile.cols;
  // Row m holds what the m-th unknown is multiplied with, so that the inner loop is contiguous, and
  // zeros for the unknowns that are solved already.
  Mat<float> factors(n, n);
  factors.fill_zero();
  std::vector<float> diagonal(static_cast<size_t>(n));
  for (int64_t m = 0; m < n; ++m) {
    diagonal[static_cast<size_t>(m)] = tile.row(m)[m];
    for (int64_t j = m + 1; j < n; ++j)
      (trans == Trans::kNo ? factors(m, j) : factors(j, m)) = tile.row(m)[j];
  }
  parallel_for_ranges(rows.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t step = 0; step < n; ++step) {
      const int64_t m = trans == Trans::kNo ? step : n - 1 - step;
      const int64_t first = trans == Trans::kNo ? begin_of_vector(m + 1) : 0,
                    last = trans == Trans::kNo ? n : std::min(n, begin_of_vector(m + kVector - 1));
      for (int64_t i = begin; i < end; ++i) {
        float* x = rows.row(i);
        const float value = x[m] /= diagonal[static_cast<size_t>(m)];
        add_multiple(-value, factors.row(m) + first, x + first, last - first);
      }
    }
  });
}

// factor_upper of one tile, sums in f64. `smallest` [n]: a pivot not above it is rounding noise.
bool factor_tile(MatView<float> tile, const float* smallest) {
  for (int64_t j = tile.cols - 1; j >= 0; --j) {
    for (int64_t i = j; i >= 0; --i) {
      double sum = tile.row(i)[j];
      for (int64_t m = j + 1; m < tile.cols; ++m)
        sum -= static_cast<double>(tile.row(i)[m]) * tile.row(j)[m];
      if (i == j && !(sum > smallest[j])) return false;
      tile.row(i)[j] = static_cast<float>(i == j ? std::sqrt(sum) : sum / tile.row(j)[j]);
    }
  }
  return true;
}

// r's upper triangle, a symmetric matrix, becomes R, upper triangular with R Rᵀ = that matrix:
// Cholesky's factorisation from the last column to the first. Nothing outside the upper triangle of
// tiles is touched. False where the matrix is not positive definite to f32's precision.
bool factor_upper(MatView<float> r) {
  const int64_t n = r.cols;
  const float noise = FLT_EPSILON * std::sqrt(static_cast<float>(n));
  std::vector<float> smallest(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j) smallest[static_cast<size_t>(j)] = noise * r.row(j)[j];
  for (int64_t begin = (n - 1) / kTile * kTile; begin >= 0; begin -= kTile) {
    const int64_t end = std::min(n, begin + kTile);
    const MatView<float> tile = r.slice_rows(begin, end).slice_cols(begin, end);
    if (end < n)
      gemm(Trans::kNo, Trans::kYes, -1, r.slice_rows(0, end).slice_cols(end, n),
           r.slice_rows(begin, end).slice_cols(end, n), 1,
           r.slice_rows(0, end).slice_cols(begin, end));
    if (!factor_tile(tile, &smallest[static_cast<size_t>(begin)])) return false;
    solve_tile(tile, Trans::kYes, r.slice_rows(0, begin).slice_cols(begin, end));
  }
  return true;
}

// x = x (R Rᵀ)⁻¹ for R of factor_upper; x [any, n].
void solve(MatView<const float> r, MatView<float> x) {
  const int64_t n = r.cols;
  const auto tile = [&](int64_t begin, int64_t end) {
    return r.slice_rows(begin, end).slice_cols(begin, end);
  };
  for (int64_t begin = (n - 1) / kTile * kTile; begin >= 0; begin -= kTile) {
    const int64_t end = std::min(n, begin + kTile);
    if (end < n)
      gemm(Trans::kNo, Trans::kYes, -1, x.slice_cols(end, n),
           r.slice_rows(begin, end).slice_cols(end, n), 1, x.slice_cols(begin, end));
    solve_tile(tile(begin, end), Trans::kYes, x.slice_cols(begin, end));
  }
  for (int64_t begin = 0; begin < n; begin += kTile) {
    const int64_t end = std::min(n, begin + kTile);
    if (begin > 0)
      gemm(Trans::kNo, Trans::kNo, -1, x.slice_cols(0, begin),
           r.slice_rows(0, begin).slice_cols(begin, end), 1, x.slice_cols(begin, end));
    solve_tile(tile(begin, end), Trans::kNo, x.slice_cols(begin, end));
  }
}

double mean_diagonal(MatView<const float> hessian) {
  double sum = 0;
  for (int64_t i = 0; i < hessian.rows; ++i) sum += std::max(0.0f, hessian.row(i)[i]);
  return sum > 0 ? sum / static_cast<double>(hessian.rows) : 1.0;  // 1: no inputs, any will do
}

// r = factor_upper of the damped `hessian`, row and column i being its order[i]. `hessian` finite.
void factor_damped(MatView<const float> hessian, const std::vector<int64_t>& order, double damp,
                   MatView<float> r) {
  const double mean = mean_diagonal(hessian);
  for (double used = damp;; used = std::max(10 * used, 1e-3)) {
    parallel_for(hessian.rows, [&](int64_t i) {
      const float* source = hessian.row(order[static_cast<size_t>(i)]);
      for (int64_t j = i / kTile * kTile; j < hessian.cols; ++j)
        r.row(i)[j] = source[order[static_cast<size_t>(j)]];
      // A dead column meets no other: every positive diagonal gives the same codes.
      const float diagonal = r.row(i)[i];
      r.row(i)[i] = static_cast<float>(diagonal == 0 && used == 0 ? mean : diagonal + used * mean);
    });
    if (factor_upper(r)) return;
    if (used >= 1)
      throw Error(ErrorCode::kNumeric,
                  {.what = "the Hessian of a layer's inputs is not positive semidefinite, not even "
                           "after its mean diagonal was added to its diagonal",
                   .where = "matrix of " + std::to_string(hessian.rows) + " inputs",
                   .fix = "calibrate on more text, or look for overflow in the activations"});
  }
}

std::vector<int64_t> column_order(MatView<const float> hessian, bool act_order) {
  std::vector<int64_t> order(static_cast<size_t>(hessian.rows));
  std::iota(order.begin(), order.end(), 0);
  if (act_order)
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return hessian.row(a)[a] > hessian.row(b)[b]; });
  return order;
}

// Σ importance (x - x_hat)². Eight sums, so that the compiler may use vectors.
double weighted_error(const float* x, const float* x_hat, const float* importance, int64_t n) {
  constexpr int64_t kLanes = 8;
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float error = x[i + lane] - x_hat[i + lane];
      sums[lane] += importance[i + lane] * error * error;
    }
  double total = 0;
  for (; i < n; ++i)
    total += static_cast<double>(importance[i]) * (x[i] - x_hat[i]) * (x[i] - x_hat[i]);
  for (const float sum : sums) total += sum;
  return total;
}

// The scale of x [n] whose rounding to nearest loses least. `scratch` [n].
float best_scale(const float* x, const float* importance, const WeightSpec& spec, float* scratch,
                 int64_t n) {
  constexpr int kSteps = 25;  // 10 and 100 gave the same error to 1 %
  const kernels::Range range = kernels::range(x, n);
  float best = 0, scale = 0;
  double least = 0;
  const auto try_scale = [&](float candidate) {
    kernels::fake_quantize(x, nullptr, candidate, spec.q_max(), scratch, n);
    const double error = weighted_error(x, scratch, importance, n);
    if (best == 0 || error < least) least = error, best = candidate;
  };
  for (int step = 0; step <= kSteps; ++step) {
    const float shrink = 1 - 0.5f * static_cast<float>(step) / kSteps;
    const float before =
        std::exchange(scale, scale_of(shrink * range.min, shrink * range.max, spec));
    if (scale == before) continue;
    try_scale(scale);
    // Where both sides are clipped it may be the other one that wants the code more.
    if (spec.signed_scale) try_scale(-scale);
  }
  return best;
}

// The scales of all groups, row by row. `importance` [in_features]; null means no search.
std::vector<float> choose_scales(MatView<const float> weight, const float* importance,
                                 const WeightSpec& spec, int64_t group_size) {
  const int64_t num_groups = weight.cols / group_size;
  std::vector<float> scales(static_cast<size_t>(weight.rows * num_groups));
  parallel_for_ranges(weight.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(group_size));
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t g = 0; g < num_groups; ++g) {
        const float* group = weight.row(i) + g * group_size;
        float& scale = scales[static_cast<size_t>(i * num_groups + g)];
        if (importance != nullptr) {
          scale = best_scale(group, importance + g * group_size, spec, scratch.data(), group_size);
        } else {
          const kernels::Range range = kernels::range(group, group_size);
          scale = scale_of(range.min, range.max, spec);
        }
      }
    }
  });
  return scales;
}

// Rounds all columns, `block` at a time: `errors` [out, in], which holds W, becomes W - Ŵ from the
// left. Columns of `errors`, `feedback`, `group_of` and, until it is put back, result.q are in the
// order of quantization. Reading the errors so far, rather than updating all columns to come,
// writes each column once.
void round_with_feedback(MatView<const float> feedback, const std::vector<size_t>& group_of,
                         int64_t block, Mat<float>& errors, IntWeight& result) {
  const int64_t out = errors.rows(), in = errors.cols();
  const int64_t num_groups = static_cast<int64_t>(result.scale.size()) / out;
  const int32_t q_max = result.spec.q_max();
  Mat<float> fed_back(out, std::min(block, in));
  fed_back.fill_zero();
  for (int64_t begin = 0; begin < in; begin += block) {
    const int64_t end = std::min(in, begin + block);
    if (begin > 0)
      gemm(Trans::kNo, Trans::kNo, 1, errors.view().slice_cols(0, begin),
           feedback.slice_rows(0, begin).slice_cols(begin, end), 0,
           fed_back.view().slice_cols(0, end - begin));
    parallel_for_ranges(out, kRowGrain, [&](int64_t first, int64_t last) {
      for (int64_t j = begin; j < end; ++j) {
        const size_t group = group_of[static_cast<size_t>(j)];
        const int64_t next = begin_of_vector(j + 1 - begin);
        const float* row = feedback.row(j) + begin;
        for (int64_t i = first; i < last; ++i) {
          const float scale = result.scale[static_cast<size_t>(i * num_groups) + group];
          float* fed = fed_back.row(i);
          const float code = kernels::scalar::clamped(
              kernels::scalar::rounded(errors(i, j) + fed[j - begin], 0, scale), q_max);
          result.q(i, j) = static_cast<int8_t>(code);
          const float error = errors(i, j) -= scale * code;
          add_multiple(error, row + next, fed + next, end - begin - next);
        }
      }
    });
  }
}

// errors [out, in] = W - Ŵ.
void subtract_quantized(MatView<const float> weight, const IntWeight& quantized, int64_t group_size,
                        Mat<float>& errors) {
  const int64_t in = weight.cols, num_groups = in / group_size;
  parallel_for(weight.rows, [&](int64_t i) {
    const float* scales = &quantized.scale[static_cast<size_t>(i * num_groups)];
    for (int64_t j = 0; j < in; ++j)
      errors(i, j) = weight.row(i)[j] - scales[j / group_size] * quantized.q(i, j);
  });
}

// products [rows, end - begin] = rows (H + ridge I), its columns begin..end.
void damped_product(MatView<const float> rows, MatView<const float> hessian, float ridge,
                    int64_t begin, int64_t end, MatView<float> products) {
  gemm(Trans::kNo, Trans::kNo, 1, rows, hessian.slice_cols(begin, end), 0, products);
  parallel_for(rows.rows, [&](int64_t i) {
    for (int64_t j = begin; j < end; ++j) products.row(i)[j - begin] += ridge * rows.row(i)[j];
  });
}

// Each code becomes the best one given all others, column by column. Sums of a block are products,
// as in round_with_feedback, but with all columns rather than those before.
void improve_codes(MatView<const float> hessian, float ridge, int64_t group_size, int64_t block,
                   Mat<float>& errors, IntWeight& result) {
  const int64_t out = errors.rows(), in = errors.cols(), num_groups = in / group_size;
  const int32_t q_max = result.spec.q_max();
  Mat<float> products(out, std::min(block, in));
  for (int64_t begin = 0; begin < in; begin += block) {
    const int64_t end = std::min(in, begin + block);
    damped_product(std::as_const(errors).view(), hessian, ridge, begin, end,
                   products.view().slice_cols(0, end - begin));
    parallel_for_ranges(out, kRowGrain, [&](int64_t first, int64_t last) {
      for (int64_t j = begin; j < end; ++j) {
        const int64_t next = begin_of_vector(j + 1 - begin);
        const float* row = hessian.row(j) + begin;
        const float curvature = row[j - begin] + ridge;
        if (!(curvature > 0)) continue;  // a dead column: every code is as good
        for (int64_t i = first; i < last; ++i) {
          const float scale = result.scale[static_cast<size_t>(i * num_groups + j / group_size)];
          const float old = result.q(i, j);
          float* product = products.row(i);
          const float code = kernels::scalar::clamped(
              kernels::scalar::rounded(scale * old + product[j - begin] / curvature, 0, scale),
              q_max);
          if (code == old) continue;
          result.q(i, j) = static_cast<int8_t>(code);
          const float change = scale * (code - old);
          errors(i, j) -= change;
          add_multiple(-change, row + next, product + next, end - begin - next);
        }
      }
    });
  }
}

// Each scale becomes the best one given the codes and the row's other scales, group by group:
// s += q H e / q H q, e what is left of the row's errors, q the group's codes.
void improve_scales(MatView<const float> hessian, float ridge, int64_t group_size,
                    Mat<float>& errors, IntWeight& result) {
  constexpr int64_t kRows = 512;  // at a time, which bounds the memory
  const int64_t out = errors.rows(), num_groups = errors.cols() / group_size;
  const DType dtype = result.spec.scale_dtype;
  const float smallest = round_to(dtype, result.spec.min_scale);
  const int64_t most = std::min(kRows, out);
  Mat<float> codes(most, group_size), moved(most, group_size), products(most, group_size);
  for (int64_t first = 0; first < out; first += kRows) {
    const int64_t count = std::min(kRows, out - first);
    const auto rows = [count](Mat<float>& matrix) { return matrix.view().slice_rows(0, count); };
    for (int64_t g = 0; g < num_groups; ++g) {
      const int64_t begin = g * group_size, end = begin + group_size;
      parallel_for(count, [&](int64_t i) {
        for (int64_t j = 0; j < group_size; ++j) codes(i, j) = result.q(first + i, begin + j);
      });
      damped_product(rows(codes), hessian.slice_rows(begin, end).slice_cols(begin, end), ridge, 0,
                     group_size, rows(moved));
      damped_product(errors.view().slice_rows(first, first + count), hessian, ridge, begin, end,
                     rows(products));
      parallel_for(count, [&](int64_t i) {
        double slope = 0, curvature = 0;
        for (int64_t j = 0; j < group_size; ++j) {
          slope += static_cast<double>(codes(i, j)) * products(i, j);
          curvature += static_cast<double>(codes(i, j)) * moved(i, j);
        }
        if (!(curvature > 0)) return;
        float& scale = result.scale[static_cast<size_t>((first + i) * num_groups + g)];
        const float sign = std::copysign(1.0f, scale);
        const float better =
            sign * std::max(sign * round_to(dtype, scale + static_cast<float>(slope / curvature)),
                            smallest);
        for (int64_t j = 0; j < group_size; ++j)
          errors(first + i, begin + j) += (scale - better) * codes(i, j);
        scale = better;
      });
    }
  }
}

// W (XᵀXq - XqᵀXq), of which W' = W + that (XqᵀXq + λI)⁻¹: f32 rounds a small correction, not the
// weight. `room` is one matrix of the Hessian's size, which may be `cross`.
Mat<float> pull_of(MatView<float> room, MatView<const float> weight, MatView<const float> cross,
                   MatView<const float> hessian) {
  const int64_t in = weight.cols;
  LAOS_ASSERT(hessian.rows == in && hessian.cols == in && cross.rows == in && cross.cols == in);
  LAOS_ASSERT(weight.rows > 0 && in > 0);
  require_finite(weight, "a weight");
  require_finite(cross, "the product of a layer's inputs with their quantized values");
  require_finite(hessian, "the Hessian of a layer's inputs");
  parallel_for(in, [&](int64_t i) {
    for (int64_t j = 0; j < in; ++j) room.row(i)[j] = cross.row(i)[j] - hessian.row(i)[j];
  });
  Mat<float> pull(weight.rows, in);
  gemm(Trans::kNo, Trans::kYes, 1, weight, room, 0, pull.view());
  return pull;
}

// What a whole refit adds to the weight, in the place of its pull.
void solve_pull(MatView<float> room, MatView<const float> hessian, double damp,
                MatView<float> pull) {
  LAOS_ASSERT(damp >= 0);
  factor_damped(hessian, column_order(hessian, false), damp, room);
  solve(room, pull);
}

// refit with room for a matrix of the Hessian's size, which may be `cross`.
Mat<float> refit_in(MatView<float> room, MatView<const float> weight, MatView<const float> cross,
                    MatView<const float> hessian, double damp, double share) {
  LAOS_ASSERT(share >= 0 && share <= 1);
  Mat<float> result = pull_of(room, weight, cross, hessian);
  solve_pull(room, hessian, damp, result.view());
  parallel_for(weight.rows, [&](int64_t i) {
    for (int64_t j = 0; j < weight.cols; ++j)
      result(i, j) = weight.row(i)[j] + static_cast<float>(share) * result(i, j);
  });
  return result;
}

}  // namespace

IntWeight quantize_gptq(MatView<const float> weight, MatView<const float> hessian,
                        const WeightSpec& spec, const GptqOptions& options) {
  const int64_t out = weight.rows, in = weight.cols;
  const int64_t group_size = spec.group_size == 0 ? in : spec.group_size;
  LAOS_ASSERT(out > 0 && in > 0 && in % group_size == 0);
  LAOS_ASSERT(hessian.rows == in && hessian.cols == in);
  LAOS_ASSERT(options.damp >= 0 && options.block >= 1);
  require_finite(weight, "a weight");
  require_finite(hessian, "the Hessian of a layer's inputs");

  const std::vector<int64_t> order = column_order(hessian, options.act_order);
  Mat<float> feedback(in, in);  // R, then R_jk / R_kk above its diagonal; `order`
  factor_damped(hessian, order, options.damp, feedback.view());
  std::vector<float> diagonal(static_cast<size_t>(in));
  for (int64_t k = 0; k < in; ++k) diagonal[static_cast<size_t>(k)] = feedback(k, k);
  parallel_for(in, [&](int64_t j) {
    for (int64_t k = j + 1; k < in; ++k) feedback(j, k) /= diagonal[static_cast<size_t>(k)];
  });

  // What a column's error costs once later columns have taken up what they can is R_kk² (see the
  // top), not H_kk. On correlated inputs [512..1024 columns, Gaussian and Student's t weights] it
  // ends at 0.82 to 1.01 times the error of scales weighted by H_kk. Searching again on the v of a
  // first pass gained nothing.
  std::vector<float> importance(static_cast<size_t>(in));
  for (size_t k = 0; k < order.size(); ++k)
    importance[static_cast<size_t>(order[k])] = diagonal[k] * diagonal[k];
  IntWeight result{
      spec, Mat<int8_t>(out, in),
      choose_scales(weight, options.search_scale ? importance.data() : nullptr, spec, group_size)};

  std::vector<size_t> group_of(static_cast<size_t>(in));
  for (size_t j = 0; j < order.size(); ++j)
    group_of[j] = static_cast<size_t>(order[j] / group_size);
  Mat<float> errors(out, in);
  parallel_for(out, [&](int64_t i) {
    for (int64_t j = 0; j < in; ++j) errors(i, j) = weight.row(i)[order[static_cast<size_t>(j)]];
  });
  round_with_feedback(feedback.view(), group_of, options.block, errors, result);
  parallel_for_ranges(out, kRowGrain, [&](int64_t first, int64_t last) {
    std::vector<int8_t> codes(static_cast<size_t>(in));
    for (int64_t i = first; i < last; ++i) {
      std::copy_n(result.q.row(i), in, codes.data());
      for (size_t j = 0; j < codes.size(); ++j) result.q(i, order[j]) = codes[j];
    }
  });
  if (options.refine == 0) return result;

  constexpr int kPasses = 2;
  const auto ridge = static_cast<float>(options.damp * mean_diagonal(hessian));
  feedback = Mat<float>();
  subtract_quantized(weight, result, group_size, errors);
  for (int64_t round = 0; round < options.refine; ++round) {
    for (int pass = 0; pass < kPasses; ++pass)
      improve_codes(hessian, ridge, group_size, options.block, errors, result);
    improve_scales(hessian, ridge, group_size, errors, result);
  }
  return result;
}

Mat<float> refit(MatView<const float> weight, MatView<const float> cross,
                 MatView<const float> hessian, double damp, double share) {
  Mat<float> room(cross.rows, cross.cols);
  return refit_in(room.view(), weight, cross, hessian, damp, share);
}

Mat<float> refit(MatView<const float> weight, Mat<float>&& cross, MatView<const float> hessian,
                 double damp, double share) {
  return refit_in(cross.view(), weight, cross.view(), hessian, damp, share);
}

Refit choose_refit(MatView<const float> weight, MatView<const float> cross,
                   MatView<const float> hessian, int64_t num_tokens, MatView<const float> x,
                   MatView<const float> xq) {
  LAOS_ASSERT(x.rows == xq.rows && x.cols == weight.cols && xq.cols == weight.cols);
  const int64_t n = x.rows, out = weight.rows;
  if (n == 0) return {};
  // What quantizing takes off the outputs of these tokens, and what a whole refit gives back.
  Mat<float> lost(n, weight.cols), missed(n, out), returned(n, out);
  parallel_for(n, [&](int64_t i) {
    for (int64_t j = 0; j < weight.cols; ++j) lost(i, j) = x.row(i)[j] - xq.row(i)[j];
  });
  gemm(Trans::kNo, Trans::kYes, 1, std::as_const(lost).view(), weight, 0, missed.view());
  lost = Mat<float>();
  Mat<float> room(weight.cols, weight.cols);
  const Mat<float> pull = pull_of(room.view(), weight, cross, hessian);
  Refit best;
  double most = 0;
  std::vector<double> slopes(static_cast<size_t>(n)), curvatures(static_cast<size_t>(n));
  for (const double damp : kRefitDamps) {
    Mat<float> change = pull.clone();
    solve_pull(room.view(), hessian, damp, change.view());
    gemm(Trans::kNo, Trans::kYes, 1, xq, std::as_const(change).view(), 0, returned.view());
    parallel_for(n, [&](int64_t i) {
      double slope = 0, curvature = 0;
      for (int64_t k = 0; k < out; ++k) {
        slope += static_cast<double>(returned(i, k)) * missed(i, k);
        curvature += static_cast<double>(returned(i, k)) * returned(i, k);
      }
      slopes[static_cast<size_t>(i)] = slope;
      curvatures[static_cast<size_t>(i)] = curvature;
    });
    const double slope = std::accumulate(slopes.begin(), slopes.end(), 0.0),
                 curvature = std::accumulate(curvatures.begin(), curvatures.end(), 0.0);
    if (!(slope > 0 && curvature > 0)) continue;
    const double share = std::min(1.0, slope / curvature),
                 gain = share * (2 * slope - share * curvature);
    if (gain <= most) continue;
    most = gain;
    // The noise of a solution falls as tokens grow in number, and with it 1 / share - 1.
    const double fewer = static_cast<double>(num_tokens) / static_cast<double>(num_tokens + n);
    best = {.damp = damp, .share = 1 / (1 + (1 / share - 1) * fewer)};
  }
  return best;
}

}  // namespace laos::quant
