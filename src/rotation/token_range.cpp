#include "rotation/token_range.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "linalg/kernels/bf16.h"
#include "linalg/polar.h"
#include "quant/kernels/rows.h"
#include "rotation/kernels/twelfth.h"

namespace laos::rotation {

using linalg::Trans;

namespace {

constexpr int64_t kRowGrain = 16;
constexpr int64_t kNoteSteps = 10;
constexpr float kMomentum = 0.9f;
// Root mean square angle by which the first step turns the axes; falls to zero with the steps. On
// the bundled model 1/32 gets less far, 1/8 no further.
constexpr double kAngle = 1.0 / 16;
// The most that a step turns any plane by, in radians. In wide models with few directions in the
// gradient all of kAngle * sqrt(n) may fall on one, and turns of more than sqrt(2) are beyond what
// a Newton-Schulz step brings back.
constexpr double kLargestAngle = 0.5;

// Operands of the fit's products, as f32 and as bfloat16 bits.
void keep(const float* x, float* y, int64_t n) { std::copy_n(x, n, y); }
void keep(const float* x, uint16_t* y, int64_t n) { linalg::kernels::to_bf16(x, y, n); }
// Products by all threads, and by the one that asks.
void product(Trans trans_a, MatView<const float> a, MatView<const float> b, MatView<float> c) {
  linalg::gemm(trans_a, Trans::kNo, 1.0f, a, b, 0.0f, c);
}
void product(Trans trans_a, MatView<const uint16_t> a, MatView<const uint16_t> b,
             MatView<float> c) {
  linalg::gemm_bf16(trans_a, Trans::kNo, a, b, false, c);
}
void product_here(Trans trans_a, MatView<const float> a, MatView<const float> b, bool accumulate,
                  MatView<float> c) {
  linalg::gemm_one_thread(trans_a, Trans::kNo, 1.0f, a, b, accumulate ? 1.0f : 0.0f, c);
}
void product_here(Trans trans_a, MatView<const uint16_t> a, MatView<const uint16_t> b,
                  bool accumulate, MatView<float> c) {
  linalg::gemm_bf16_one_thread(trans_a, Trans::kNo, a, b, accumulate, c);
}

// x as an operand: as it is, or rounded into `room`.
MatView<const float> operand(MatView<const float> x, Buffer<float>& /*room*/) { return x; }
MatView<const uint16_t> operand(MatView<const float> x, Buffer<uint16_t>& room) {
  const MatView<uint16_t> rounded = grown(room, x.rows, x.cols);
  linalg::to_bf16(x, rounded);
  return rounded;
}

// What one task of a fit works in: T the type of its products' operands.
template <class T>
struct Room {
  Buffer<T> rows, values, gradients, block, turn;
  Buffer<float> rotated, angles;
  linalg::NewtonSchulzRoom newton_schulz;
};

// A step's rows: first, first + stride, ... of `order`, which are rows of `a`.
struct Batch {
  const Mat<float>& a;
  const std::vector<int64_t>& order;
  int64_t first, stride;

  int64_t size() const { return (std::ssize(order) - first + stride - 1) / stride; }
};

// Those from `begin` to `end`, into `room`.
template <class T>
MatView<const T> gathered(const Batch& batch, int64_t begin, int64_t end, Buffer<T>& room) {
  const MatView<T> result = grown(room, end - begin, batch.a.cols());
  parallel_for_ranges(result.rows, kRowGrain, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t place = batch.first + (begin + i) * batch.stride;
      keep(batch.a.row(batch.order[static_cast<size_t>(place)]), result.row(i), result.cols);
    }
  });
  return result;
}

// Where z as an operand and its gradient as one are to lie: f32 is one already.
MatView<float> values_of(MatView<float> z, Buffer<float>& /*room*/) { return z; }
MatView<uint16_t> values_of(MatView<float> z, Buffer<uint16_t>& room) {
  return grown(room, z.rows, z.cols);
}

// The gradient of a row's range, and both as operands; may overwrite z.
void derive_row(float* z, float* /*values: z*/, float* gradient, int64_t n) {
  range_and_gradient(z, gradient, n);
}
void derive_row(float* z, uint16_t* values, uint16_t* gradient, int64_t n) {
  keep(z, values, n);
  range_and_gradient(z, z, n);
  keep(z, gradient, n);
}

template <class T>
void derive_rows(MatView<float> z, MatView<T> values, MatView<T> gradients) {
  parallel_for_ranges(z.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      derive_row(z.row(i), values.row(i), gradients.row(i), z.cols);
  });
}

// f(i) for i < count: side by side, or with all threads where there is one.
template <class F>
void for_each(int64_t count, F&& f) {
  if (count == 1) return f(int64_t{0});
  parallel_for(count, f);
}

// Tasks that a batch is divided between where blocks are small, rather than each of its many small
// products between threads, which would wait for each other at every one. The division hangs on its
// size alone. A task goes through its rows a cache's worth at a time.
constexpr int64_t kTasks = 16;
constexpr int64_t kChunkElements = int64_t{1} << 17;
// The gradient of the rows' ranges with respect to a block R is aᵀ g for rows a with gradients g,
// so Rᵀ times it is zᵀ g: that, of a whole batch, into the first of `sums` [n, n], one a block.
// There are kTasks sums, or one where a block is as wide as the rows.
template <class T>
void batch_gradients(const Batch& batch, const std::vector<Mat<float>>& blocks, int64_t sharing,
                     std::vector<Room<T>>& rooms, std::vector<std::vector<Mat<float>>>& sums) {
  const int64_t n = blocks.front().cols(), cols = batch.a.cols(), size = batch.size();
  std::vector<MatView<const T>> operands;
  for (size_t b = 0; b < blocks.size(); ++b)
    operands.push_back(operand(blocks[b].view(), rooms[b].block));
  if (cols == n) {
    Room<T>& room = rooms.front();
    const MatView<float> z = grown(room.rotated, size, cols);
    const MatView<T> values = values_of(z, room.values),
                     gradients = grown(room.gradients, size, cols);
    product(Trans::kNo, gathered(batch, 0, size, room.rows), operands.front(), z);
    derive_rows(z, values, gradients);
    return product(Trans::kYes, values, gradients, sums.front().front().view());
  }
  const int64_t chunk = std::max<int64_t>(1, kChunkElements / cols);
  parallel_for(kTasks, [&](int64_t task) {
    Room<T>& room = rooms[static_cast<size_t>(task)];
    std::vector<Mat<float>>& products = sums[static_cast<size_t>(task)];
    const int64_t first = task * size / kTasks, last = (task + 1) * size / kTasks;
    if (first == last)
      for (Mat<float>& product : products) product.fill_zero();
    for (int64_t begin = first; begin < last; begin += chunk) {
      const int64_t end = std::min(begin + chunk, last);
      const MatView<float> z = grown(room.rotated, end - begin, cols);
      const MatView<T> values = values_of(z, room.values),
                       gradients = grown(room.gradients, end - begin, cols);
      const MatView<const T> rows = gathered(batch, begin, end, room.rows);
      for (int64_t b = 0; b * n < cols; ++b)
        product_here(Trans::kNo, rows.slice_cols(b * n, (b + 1) * n),
                     operands[static_cast<size_t>(b / sharing)], false,
                     z.slice_cols(b * n, (b + 1) * n));
      derive_rows(z, values, gradients);
      for (int64_t b = 0; b * n < cols; ++b)
        product_here(Trans::kYes, values.slice_cols(b * n, (b + 1) * n),
                     gradients.slice_cols(b * n, (b + 1) * n), begin > first || b % sharing != 0,
                     products[static_cast<size_t>(b / sharing)].view());
    }
  });
  for_each(std::ssize(blocks), [&](int64_t block) {
    const auto b = static_cast<size_t>(block);
    Mat<float>& total = sums.front()[b];
    for (size_t task = 1; task < sums.size(); ++task)
      for (int64_t j = 0; j < total.size(); ++j) total.data()[j] += sums[task][b].data()[j];
  });
}

// momentum <- kMomentum momentum + the skew part of `product`, the direction in the group's tangent
// space at R; all [n, n]. Its Frobenius norm.
double add_skew_part(const Mat<float>& product, Mat<float>& momentum) {
  // By tiles: down a column, every element of a large matrix lies in a page of its own.
  constexpr int64_t kTile = 64;
  const int64_t n = product.rows();
  std::vector<double> row_sums(static_cast<size_t>(n), 0.0);
  parallel_for_ranges(n, kTile, [&](int64_t begin, int64_t end) {
    for (int64_t from = 0; from < n; from += kTile)
      for (int64_t i = begin; i < end; ++i) {
        double sum = row_sums[static_cast<size_t>(i)];
        for (int64_t j = from; j < std::min(n, from + kTile); ++j) {
          float& m = momentum(i, j);
          m = kMomentum * m + 0.5f * (product(i, j) - product(j, i));
          sum += static_cast<double>(m) * m;
        }
        row_sums[static_cast<size_t>(i)] = sum;
      }
  });
  double norm = 0;
  for (const double sum : row_sums) norm += sum;
  return std::sqrt(norm);
}

// block <- block (I - turn), and towards the nearest orthogonal matrix; overwrites `change`.
template <class T>
void turn_block(MatView<const float> turn, linalg::ComputeType compute, Room<T>& room,
                Mat<float>& change, Mat<float>& block) {
  product(Trans::kNo, operand(block.view(), room.block), operand(turn, room.turn), change.view());
  parallel_for(block.rows(), [&](int64_t i) {
    for (int64_t j = 0; j < block.cols(); ++j) block(i, j) -= change(i, j);
  });
  linalg::newton_schulz_step(block, compute, room.newton_schulz);
}

}  // namespace

double rounding_error(MatView<const float> a, int bits, MatView<float> quantized) {
  const int32_t q_max = (1 << (bits - 1)) - 1;
  std::vector<double> row_errors(static_cast<size_t>(a.rows));
  parallel_for_ranges(a.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = a.row(i);
      const quant::kernels::Range range = quant::kernels::range(row, a.cols);
      const float scale =
          std::max(std::max(range.max, -range.min) / static_cast<float>(q_max), 1e-5f);
      quant::kernels::fake_quantize(row, nullptr, scale, q_max, quantized.row(i), a.cols);
      double error = 0;
      for (int64_t j = 0; j < a.cols; ++j) {
        const double e = static_cast<double>(row[j]) - quantized.row(i)[j];
        error += e * e;
      }
      row_errors[static_cast<size_t>(i)] = error;
    }
  });
  double sum = 0;
  for (const double error : row_errors) sum += error;
  return std::sqrt(sum) / (static_cast<double>(a.rows) * static_cast<double>(a.cols));
}

double range_and_gradient(const float* z, float* gradient, int64_t n) {
  const quant::kernels::Range range = quant::kernels::range(z, n);
  const float max = std::max(range.max, -range.min);
  if (!(max > 0)) {
    std::fill_n(gradient, n, 0.0f);
    return 0;
  }
  // In units of the largest value, whose twelfth power f32 holds.
  const float unit = 1 / max;
  const double mean = double{kernels::sum_of_twelfth_powers(z, unit, n)} / static_cast<double>(n);
  // d(mean¹ᐟ⁶)/du = mean^(-5/6) / 6 · 12 u¹¹ / n
  kernels::eleventh_powers(
      z, unit, static_cast<float>(2 * max * std::pow(mean, -5.0 / 6) / static_cast<double>(n)),
      gradient, n);
  return static_cast<double>(max) * max * std::pow(mean, 1.0 / 6);
}

void multiply_blocks(MatView<const float> x, const std::vector<Mat<float>>& blocks, int64_t sharing,
                     MatView<float> y) {
  const int64_t n = blocks.front().cols();
  for (int64_t b = 0; b * n < x.cols; ++b)
    product(Trans::kNo, x.slice_cols(b * n, (b + 1) * n),
            blocks[static_cast<size_t>(b / sharing)].view(), y.slice_cols(b * n, (b + 1) * n));
}

namespace {

// fit_range_blocks, T the type of its products' operands.
template <class T>
std::vector<Mat<float>> fit_blocks(const Mat<float>& a, const RangeFit& fit,
                                   const std::function<void(int64_t, double)>& note,
                                   int64_t& best_step) {
  const int64_t n = fit.block_size;
  const int64_t num_blocks = a.cols() / n / fit.sharing, num_sums = a.cols() == n ? 1 : kTasks;
  std::vector<int64_t> fitted, held_back;
  for (int64_t i = 0; i < a.rows(); ++i)
    (i % kRangeHeldBack == kRangeHeldBack - 1 ? held_back : fitted).push_back(i);
  if (held_back.empty()) held_back = fitted;
  Buffer<float> judge_room;
  const MatView<const float> judge =
      gathered<float>({a, held_back, 0, 1}, 0, std::ssize(held_back), judge_room);
  Mat<float> judged(judge.rows, a.cols()), quantized(judge.rows, a.cols());
  best_step = 0;
  double best_loss = rounding_error(judge, fit.quant_bits, quantized.view());
  note(0, best_loss);
  std::vector<Mat<float>> best;

  std::vector<Mat<float>> blocks, momenta;
  for (int64_t b = 0; b < num_blocks; ++b) {
    Mat<float>& block = blocks.emplace_back(n, n);
    block.fill_zero();
    momenta.emplace_back(n, n).fill_zero();
    for (int64_t i = 0; i < n; ++i) block(i, i) = 1;
  }
  std::vector<std::vector<Mat<float>>> sums(static_cast<size_t>(num_sums));
  for (std::vector<Mat<float>>& products : sums)
    for (int64_t b = 0; b < num_blocks; ++b) products.emplace_back(n, n);
  std::vector<Mat<float>>& products = sums.front();
  std::vector<Room<T>> rooms(static_cast<size_t>(std::max(num_blocks, num_sums)));
  // A batch takes every so manyth row, so that it has rows of all layers.
  const int64_t batches =
      std::max<int64_t>(1, (std::ssize(fitted) + fit.batch_rows - 1) / fit.batch_rows);
  for (int64_t step = 1; step <= fit.steps; ++step) {
    batch_gradients({a, fitted, (step - 1) % batches, batches}, blocks, fit.sharing, rooms, sums);
    const double angle =
        kAngle * (1 - static_cast<double>(step - 1) / static_cast<double>(fit.steps));
    std::atomic<bool> any = false;
    for_each(num_blocks, [&](int64_t block) {
      const auto b = static_cast<size_t>(block);
      const double norm = add_skew_part(products[b], momenta[b]);
      if (!(norm > 0)) return;
      any = true;
      const double widest = linalg::spectral_norm(std::as_const(momenta[b]).view());
      const auto factor = static_cast<float>(
          std::min(angle * std::sqrt(static_cast<double>(n)) / norm, kLargestAngle / widest));
      const MatView<float> turn = grown(rooms[b].angles, n, n);
      parallel_for(n, [&](int64_t i) {
        for (int64_t j = 0; j < n; ++j) turn.row(i)[j] = factor * momenta[b](i, j);
      });
      turn_block(turn, fit.compute, rooms[b], products[b], blocks[b]);
    });
    if (!any) break;
    if (step % kNoteSteps != 0 && step != fit.steps) continue;
    for (Mat<float>& block : blocks) linalg::reorthogonalize(block);
    multiply_blocks(judge, blocks, fit.sharing, judged.view());
    const double loss =
        rounding_error(std::as_const(judged).view(), fit.quant_bits, quantized.view());
    note(step, loss);
    if (loss < best_loss) {
      best_loss = loss;
      best_step = step;
      best.clear();
      for (const Mat<float>& block : blocks) best.push_back(block.clone());
    }
  }
  return best;
}

}  // namespace

std::vector<Mat<float>> fit_range_blocks(const Mat<float>& a, const RangeFit& fit,
                                         const std::function<void(int64_t, double)>& note,
                                         int64_t& best_step) {
  return fit.compute == linalg::ComputeType::kBf16 ? fit_blocks<uint16_t>(a, fit, note, best_step)
                                                   : fit_blocks<float>(a, fit, note, best_step);
}

// Those of the blocks, their momenta, products, the best ones so far and five that a turn works in.
int64_t range_block_bytes(int64_t num_blocks, int64_t n) noexcept {
  return int64_t{4} * (kTasks - 1 + 9) * num_blocks * n * n;
}

Mat<float> fit_token_range(Mat<float> a, const FitOptions& options,
                           const std::function<void(int64_t step, double loss)>& note,
                           int64_t& best_step) {
  std::vector<Mat<float>> best = fit_range_blocks(a,
                                                  {.block_size = a.cols(),
                                                   .sharing = 1,
                                                   .steps = options.steps,
                                                   .quant_bits = options.quant_bits,
                                                   .batch_rows = kRangeBatchRows,
                                                   .compute = options.compute},
                                                  note, best_step);
  return best.empty() ? Mat<float>() : std::move(best.front());
}

}  // namespace laos::rotation
