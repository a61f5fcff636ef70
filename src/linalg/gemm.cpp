#include "linalg/gemm.h"

#include <algorithm>

#include "core/threads.h"
#include "linalg/onednn.h"

namespace laos::linalg {
namespace {

struct Tiling {
  int64_t rows;
  int64_t cols;
};

// Big tiles amortise packing; small products are cut finer so that there are tiles for every
// thread. A function of the shape alone: results must not depend on the machine's number of
// threads.
Tiling tiling(int64_t m, int64_t n) noexcept {
  Tiling tile{512, 1024};
  const auto count = [&] {
    return ((m + tile.rows - 1) / tile.rows) * ((n + tile.cols - 1) / tile.cols);
  };
  while (count() < 8 && (tile.rows > 128 || tile.cols > 128)) {
    int64_t& larger = std::min(tile.cols, n) > std::min(tile.rows, m) ? tile.cols : tile.rows;
    int64_t& cut = larger > 128 ? larger : (tile.rows > 128 ? tile.rows : tile.cols);
    cut /= 2;
  }
  return tile;
}

}  // namespace

void gemm(Trans trans_a, Trans trans_b, float alpha, MatView<const float> a, MatView<const float> b,
          float beta, MatView<float> c) {
  const int64_t m = c.rows, n = c.cols, k = trans_a == Trans::kNo ? a.cols : a.rows;
  LAOS_ASSERT((trans_a == Trans::kNo ? a.rows : a.cols) == m);
  LAOS_ASSERT((trans_b == Trans::kNo ? b.cols : b.rows) == n);
  LAOS_ASSERT((trans_b == Trans::kNo ? b.rows : b.cols) == k);
  if (m == 0 || n == 0) return;
  const Tiling tile = tiling(m, n);
  const int64_t tiles_n = (n + tile.cols - 1) / tile.cols;
  parallel_for((m + tile.rows - 1) / tile.rows * tiles_n, [&](int64_t t) {
    const int64_t i0 = t / tiles_n * tile.rows, j0 = t % tiles_n * tile.cols;
    const int64_t rows = std::min(tile.rows, m - i0), cols = std::min(tile.cols, n - j0);
    onednn_sgemm(trans_a == Trans::kYes, trans_b == Trans::kYes, rows, cols, k, alpha,
                 trans_a == Trans::kNo ? a.row(i0) : a.data + i0, a.stride,
                 trans_b == Trans::kNo ? b.data + j0 : b.row(j0), b.stride, beta, c.row(i0) + j0,
                 c.stride);
  });
}

void gemm(Trans trans_a, Trans trans_b, double alpha, MatView<const double> a,
          MatView<const double> b, double beta, MatView<double> c) {
  const int64_t k = trans_a == Trans::kNo ? a.cols : a.rows;
  for (int64_t i = 0; i < c.rows; ++i) {
    for (int64_t j = 0; j < c.cols; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < k; ++p)
        sum += (trans_a == Trans::kNo ? a.row(i)[p] : a.row(p)[i]) *
               (trans_b == Trans::kNo ? b.row(p)[j] : b.row(j)[p]);
      c.row(i)[j] = alpha * sum + (beta == 0 ? 0 : beta * c.row(i)[j]);
    }
  }
}

void gemm_one_thread(Trans trans_a, Trans trans_b, float alpha, MatView<const float> a,
                     MatView<const float> b, float beta, MatView<float> c) {
  if (c.rows == 0 || c.cols == 0) return;
  onednn_sgemm(trans_a == Trans::kYes, trans_b == Trans::kYes, c.rows, c.cols,
               trans_a == Trans::kNo ? a.cols : a.rows, alpha, a.data, a.stride, b.data, b.stride,
               beta, c.data, c.stride);
}

void gemm_one_thread(Trans trans_a, Trans trans_b, double alpha, MatView<const double> a,
                     MatView<const double> b, double beta, MatView<double> c) {
  gemm(trans_a, trans_b, alpha, a, b, beta, c);
}

void gram(MatView<const float> a, MatView<float> c, float beta) {
  constexpr int64_t kTile = 512;
  const int64_t n = a.cols, tiles = (n + kTile - 1) / kTile;
  LAOS_ASSERT(c.rows == n && c.cols == n);
  parallel_for(tiles * tiles, [&](int64_t t) {
    const int64_t i0 = t / tiles * kTile, j0 = t % tiles * kTile;
    if (j0 < i0) return;
    const int64_t rows = std::min(kTile, n - i0), cols = std::min(kTile, n - j0);
    onednn_sgemm(true, false, rows, cols, a.rows, 1.0f, a.data + i0, a.stride, a.data + j0,
                 a.stride, beta, c.row(i0) + j0, c.stride);
    if (i0 == j0) return;
    for (int64_t i = i0; i < i0 + rows; ++i)
      for (int64_t j = j0; j < j0 + cols; ++j) c.row(j)[i] = c.row(i)[j];
  });
}

}  // namespace laos::linalg
