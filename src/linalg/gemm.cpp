#include "linalg/gemm.h"

#include <algorithm>
#include <utility>

#include "core/threads.h"
#include "linalg/kernels/bf16.h"
#include "linalg/onednn.h"

namespace laos::linalg {
namespace {

struct Tiling {
  int64_t rows;
  int64_t cols;
};

// oneDNN copies the operands of tiles of this size and more to where it wants them; those of
// smaller ones it reads where they are.
constexpr Tiling kTile{512, 1024};

// Big tiles amortise packing; small products are cut finer so that there are tiles for every
// thread. A function of the shape alone: results must not depend on the machine's number of
// threads. Of a row-major b the larger tiles are worth more than more tiles, see below.
Tiling tiling(Trans trans_b, int64_t m, int64_t n) noexcept {
  Tiling tile = kTile;
  if (trans_b == Trans::kNo && m >= tile.rows && n >= tile.cols) return tile;
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

// Where oneDNN walks down the columns of an operand whose rows are a multiple of 4 KB apart, all it
// reads falls into a few lines of the first cache, which takes twice the time
// (docs/performance.md). Such an operand is copied, some depth at a time, where it is used often
// enough.
constexpr int64_t kMinReuse = 32, kCopyDepth = 512, kRowPadding = 16;
bool aliases(MatView<const float> x) noexcept {
  return onednn_has_code() && x.rows > 8 &&
         x.stride * static_cast<int64_t>(sizeof(float)) % 4096 == 0;
}

// x with rows not so far apart.
MatView<const float> apart(MatView<const float> x, Buffer<float>& buffer) {
  const MatView<float> y = grown(buffer, x.rows, x.cols + kRowPadding).slice_cols(0, x.cols);
  for (int64_t i = 0; i < x.rows; ++i) std::copy_n(x.row(i), x.cols, y.row(i));
  return y;
}

// Calls one(a, b, c) for every tile of c with what of a and b it needs.
template <class T, class F>
void for_tiles(Trans trans_a, Trans trans_b, MatView<const T> a, MatView<const T> b,
               MatView<float> c, const F& one) {
  const int64_t m = c.rows, n = c.cols, k = trans_a == Trans::kNo ? a.cols : a.rows;
  LAOS_ASSERT((trans_a == Trans::kNo ? a.rows : a.cols) == m);
  LAOS_ASSERT((trans_b == Trans::kNo ? b.cols : b.rows) == n);
  LAOS_ASSERT((trans_b == Trans::kNo ? b.rows : b.cols) == k);
  if (m == 0 || n == 0) return;
  const Tiling tile = tiling(trans_b, m, n);
  const int64_t tiles_n = (n + tile.cols - 1) / tile.cols;
  parallel_for((m + tile.rows - 1) / tile.rows * tiles_n, [&](int64_t t) {
    const int64_t i0 = t / tiles_n * tile.rows, j0 = t % tiles_n * tile.cols;
    const int64_t i1 = std::min(m, i0 + tile.rows), j1 = std::min(n, j0 + tile.cols);
    one(trans_a == Trans::kNo ? a.slice_rows(i0, i1) : a.slice_cols(i0, i1),
        trans_b == Trans::kNo ? b.slice_cols(j0, j1) : b.slice_rows(j0, j1),
        c.slice_rows(i0, i1).slice_cols(j0, j1));
  });
}

// Below the diagonal of c what rows [i0, i1) and columns [j0, j1) hold above it. In squares of a
// few rows: those of a large matrix lie in pages of their own, and in the same lines of the cache.
void mirror(MatView<float> c, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  constexpr int64_t kSquare = 8;
  for (int64_t i = i0; i < i1; i += kSquare)
    for (int64_t j = std::max(j0, i + 1); j < j1; j += kSquare)
      for (int64_t y = j; y < std::min(j + kSquare, j1); ++y)
        for (int64_t x = i; x < std::min({i + kSquare, i1, y}); ++x) c.row(y)[x] = c.row(x)[y];
}

// Calls one(x, y, tile) for tiles of c = aᵀ a that are on or above its diagonal, x and y the
// columns of a that tile = xᵀ y takes, and mirrors them.
template <class T, class F>
void gram_in_tiles(MatView<const T> a, MatView<float> c, const F& one) {
  // Tiles over each strip of rows from its diagonal on.
  constexpr int64_t kRows = kTile.rows, kCols = kTile.cols;
  const int64_t n = a.cols, strips = (n + kRows - 1) / kRows,
                most = std::max<int64_t>(n / kCols, 1);
  LAOS_ASSERT(c.rows == n && c.cols == n);
  parallel_for(strips * most, [&](int64_t t) {
    const int64_t i0 = t / most * kRows, i1 = std::min(i0 + kRows, n), width = n - i0,
                  tiles = std::max<int64_t>(width / kCols, 1), tile = t % most;
    if (tile >= tiles) return;
    const int64_t j0 = i0 + width * tile / tiles, j1 = i0 + width * (tile + 1) / tiles;
    one(a.slice_cols(i0, i1), a.slice_cols(j0, j1), c.slice_rows(i0, i1).slice_cols(j0, j1));
    mirror(c, i0, i1, j0, j1);
  });
}

// Products in bfloat16 by code for the processor's own instructions, x86-64's. Those kernels take
// operands whose rows follow one another; others oneDNN 2.6 multiplies in an older way, which asks
// the system for memory at every product. So an operand with gaps is copied, a part of the depth at
// a time. Of products with rows enough b is laid out once, in panels: a strip of rows, what is laid
// out for it and the sums stay in the second cache (2 MB where this was measured).
constexpr int64_t kStripRows = 256, kStripDepth = 512, kPanelCols = 512, kMinStrips = 4;

bool takes_strips(int64_t m, int64_t n, int64_t k) {
  constexpr int64_t kMinProducts = int64_t{1} << 26;  // below, copies cost as much as they save
  static const bool has_code = onednn_has_code() && has_native_bf16();
  return has_code && m * n * k >= kMinProducts;
}

template <class T>
void copy_rows(MatView<const T> from, MatView<T> to) {
  for (int64_t i = 0; i < from.rows; ++i) std::copy_n(from.row(i), from.cols, to.row(i));
}

// x, without gaps between its rows.
MatView<const uint16_t> dense(MatView<const uint16_t> x, Buffer<uint16_t>& buffer) {
  if (x.stride == x.cols) return x;
  const MatView<uint16_t> y = grown(buffer, x.rows, x.cols);
  copy_rows(x, y);
  return y;
}

// c = sums (+ c when `accumulate`), of as many rows as c has.
void take_sums(MatView<const float> sums, bool accumulate, MatView<float> c) {
  if (!accumulate) return copy_rows(sums.slice_rows(0, c.rows), c);
  for (int64_t i = 0; i < c.rows; ++i) {
    float* target = c.row(i);
    for (int64_t j = 0; j < c.cols; ++j) target[j] += sums.row(i)[j];
  }
}

// Rows of a are tokens, and their number differs from batch to batch. oneDNN compiles code for
// every shape it meets, which takes longer than a product, so rows come in few sizes: multiples of
// kBlock, and what is left filled up with zeros. product(a, accumulate, c) does them.
template <class F>
void in_few_sizes(MatView<const uint16_t> a, bool accumulate, MatView<float> c, const F& product) {
  constexpr int64_t kBlock = 64, kTail = 16;
  const int64_t whole = c.rows / kBlock * kBlock, rest = c.rows - whole;
  if (whole > 0) product(a.slice_rows(0, whole), accumulate, c.slice_rows(0, whole));
  if (rest == 0) return;
  const int64_t padded = (rest + kTail - 1) / kTail * kTail;
  thread_local Buffer<uint16_t> x_buffer;
  thread_local Buffer<float> y_buffer;
  const MatView<uint16_t> x = grown(x_buffer, padded, a.cols);
  const MatView<float> y = grown(y_buffer, padded, c.cols);
  copy_rows(a.slice_rows(whole, c.rows), x);
  std::fill(x.row(rest), x.data + padded * a.cols, uint16_t{0});
  product(x, false, y);
  take_sums(y, accumulate, c.slice_rows(whole, c.rows));
}

// c = op(a) op(b) (+ c when `accumulate`) on this thread, a part of the depth after the other by
// part(x, begin, end, adds, sums), which multiplies the part x of a, without gaps, by that of b.
template <class F>
void by_depth(Trans trans_a, MatView<const uint16_t> a, int64_t depth, bool accumulate,
              MatView<float> c, const F& part) {
  thread_local Buffer<uint16_t> a_buffer;
  thread_local Buffer<float> c_buffer;
  const bool has_gaps = c.stride != c.cols;
  const MatView<float> sums = has_gaps ? grown(c_buffer, c.rows, c.cols) : c;
  for (int64_t begin = 0; begin < depth; begin += kStripDepth) {
    const int64_t end = std::min(begin + kStripDepth, depth);
    part(dense(trans_a == Trans::kNo ? a.slice_cols(begin, end) : a.slice_rows(begin, end),
               a_buffer),
         begin, end, begin > 0 || (accumulate && !has_gaps), sums);
  }
  if (has_gaps) take_sums(sums, accumulate, c);
}

// One product of a tile.
void bf16_product(Trans trans_a, Trans trans_b, MatView<const uint16_t> a,
                  MatView<const uint16_t> b, bool accumulate, MatView<float> c) {
  const int64_t depth = trans_a == Trans::kNo ? a.cols : a.rows;
  const auto product = [&](MatView<const uint16_t> x, MatView<const uint16_t> y, int64_t k,
                           bool adds, MatView<float> z) {
    onednn_bf16(trans_a == Trans::kYes, trans_b == Trans::kYes, z.rows, z.cols, k, x.data, x.stride,
                y.data, y.stride, adds, z.data, z.stride);
  };
  if (!takes_strips(c.rows, c.cols, depth)) return product(a, b, depth, accumulate, c);
  thread_local Buffer<uint16_t> b_buffer;
  by_depth(
      trans_a, a, depth, accumulate, c,
      [&](MatView<const uint16_t> x, int64_t begin, int64_t end, bool adds, MatView<float> sums) {
        product(x,
                dense(trans_b == Trans::kNo ? b.slice_rows(begin, end) : b.slice_cols(begin, end),
                      b_buffer),
                end - begin, adds, sums);
      });
}

// c = op(a) op(b) (+ c when `accumulate`) where c has kMinStrips and more; of a symmetric one the
// strips above the diagonal are made, and mirrored.
void product_in_strips(Trans trans_a, Trans trans_b, MatView<const uint16_t> a,
                       MatView<const uint16_t> b, bool accumulate, bool is_symmetric,
                       MatView<float> c) {
  const int64_t depth = trans_a == Trans::kNo ? a.cols : a.rows,
                parts = (depth + kStripDepth - 1) / kStripDepth,
                panels = (c.cols + kPanelCols - 1) / kPanelCols,
                strips = (c.rows + kStripRows - 1) / kStripRows;
  constexpr int64_t kPart = packed_size(kStripDepth, kPanelCols);
  const int64_t at_once =
      std::clamp<int64_t>(kPackedBytes / (2 * kPart * parts), int64_t{1}, panels);
  // Kept from call to call: pages that are touched for the first time cost as much as the layout.
  thread_local Buffer<uint16_t> kept;
  uint16_t* const packed = grown(kept, at_once * parts, kPart).data;
  const auto cols_of = [&](int64_t panel) {
    return std::pair{panel * kPanelCols, std::min((panel + 1) * kPanelCols, c.cols)};
  };
  for (int64_t first = 0; first < panels; first += at_once) {
    const int64_t count = std::min(at_once, panels - first);
    parallel_for(count * parts, [&](int64_t i) {
      const auto [j0, j1] = cols_of(first + i / parts);
      const int64_t begin = i % parts * kStripDepth, end = std::min(begin + kStripDepth, depth);
      const MatView<const uint16_t> y = trans_b == Trans::kNo
                                            ? b.slice_rows(begin, end).slice_cols(j0, j1)
                                            : b.slice_rows(j0, j1).slice_cols(begin, end);
      onednn_pack_bf16(trans_b == Trans::kYes, j1 - j0, end - begin, y.data, y.stride,
                       packed + i * kPart);
    });
    // Panel by panel, so that the strips find what is laid out of it in the second cache.
    parallel_for(count * strips, [&](int64_t i) {
      const auto [j0, j1] = cols_of(first + i / strips);
      const int64_t i0 = i % strips * kStripRows, i1 = std::min(i0 + kStripRows, c.rows);
      if (is_symmetric && i0 >= j1) return;
      const uint16_t* const panel = packed + i / strips * parts * kPart;
      const auto strip = [&](MatView<const uint16_t> rows, bool adds_c, MatView<float> target) {
        by_depth(trans_a, rows, depth, adds_c, target,
                 [&](MatView<const uint16_t> x, int64_t begin, int64_t end, bool adds,
                     MatView<float> sums) {
                   onednn_packed_bf16(trans_a == Trans::kYes, sums.rows, sums.cols, end - begin,
                                      x.data, panel + begin / kStripDepth * kPart, adds, sums.data);
                 });
      };
      const MatView<float> target = c.slice_rows(i0, i1).slice_cols(j0, j1);
      if (trans_a == Trans::kYes)
        strip(a.slice_cols(i0, i1), accumulate, target);
      else
        in_few_sizes(a.slice_rows(i0, i1), accumulate, target, strip);
    });
  }
  // Strips that the diagonal goes through have written below it, too.
  if (is_symmetric)
    parallel_for_ranges(c.rows, kStripRows,
                        [&](int64_t i0, int64_t i1) { mirror(c, i0, i1, i0, c.cols); });
}

}  // namespace

void gemm(Trans trans_a, Trans trans_b, float alpha, MatView<const float> a, MatView<const float> b,
          float beta, MatView<float> c) {
  for_tiles(trans_a, trans_b, a, b, c,
            [&](MatView<const float> a_tile, MatView<const float> b_tile, MatView<float> c_tile) {
              gemm_one_thread(trans_a, trans_b, alpha, a_tile, b_tile, beta, c_tile);
            });
}

void to_bf16(MatView<const float> x, MatView<uint16_t> y) {
  LAOS_ASSERT(x.rows == y.rows && x.cols == y.cols);
  parallel_for_ranges(x.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels::to_bf16(x.row(i), y.row(i), x.cols);
  });
}

void to_bf16_padded(MatView<const float> x, MatView<uint16_t> y) {
  LAOS_ASSERT(x.rows <= y.rows);
  to_bf16(x, y.slice_rows(0, x.rows));
  for (int64_t i = x.rows; i < y.rows; ++i) std::fill_n(y.row(i), y.cols, uint16_t{0});
}

void gemm_bf16(Trans trans_a, Trans trans_b, MatView<const uint16_t> a, MatView<const uint16_t> b,
               bool accumulate, MatView<float> c) {
  if (c.rows >= kMinStrips * kStripRows &&
      takes_strips(c.rows, c.cols, trans_a == Trans::kNo ? a.cols : a.rows))
    return product_in_strips(trans_a, trans_b, a, b, accumulate, false, c);
  for_tiles(
      trans_a, trans_b, a, b, c,
      [&](MatView<const uint16_t> a_tile, MatView<const uint16_t> b_tile, MatView<float> c_tile) {
        gemm_bf16_one_thread(trans_a, trans_b, a_tile, b_tile, accumulate, c_tile);
      });
}

void gemm_bf16_one_thread(Trans trans_a, Trans trans_b, MatView<const uint16_t> a,
                          MatView<const uint16_t> b, bool accumulate, MatView<float> c) {
  if (c.rows == 0 || c.cols == 0) return;
  const auto product = [&](MatView<const uint16_t> x, bool adds, MatView<float> y) {
    bf16_product(trans_a, trans_b, x, b, adds, y);
  };
  if (trans_a == Trans::kYes) return product(a, accumulate, c);
  in_few_sizes(a, accumulate, c, product);
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
  const int64_t depth = trans_a == Trans::kNo ? a.cols : a.rows;
  const auto product = [&](MatView<const float> x, MatView<const float> y, int64_t k, float kept) {
    sgemm(trans_a == Trans::kYes, trans_b == Trans::kYes, c.rows, c.cols, k, alpha, x.data,
          x.stride, y.data, y.stride, kept, c.data, c.stride);
  };
  const bool is_packed = c.rows >= kTile.rows && c.cols >= kTile.cols;
  const bool copies_a = !is_packed && trans_a == Trans::kYes && c.cols >= kMinReuse && aliases(a),
             copies_b = !is_packed && trans_b == Trans::kNo && c.rows >= kMinReuse && aliases(b);
  if (!copies_a && !copies_b) return product(a, b, depth, beta);
  thread_local Buffer<float> a_buffer, b_buffer;
  for (int64_t begin = 0; begin < depth; begin += kCopyDepth) {
    const int64_t end = std::min(begin + kCopyDepth, depth);
    const auto part = [&](MatView<const float> matrix, bool rows_are_depth) {
      return rows_are_depth ? matrix.slice_rows(begin, end) : matrix.slice_cols(begin, end);
    };
    MatView<const float> x = part(a, trans_a == Trans::kYes), y = part(b, trans_b == Trans::kNo);
    if (copies_a) x = apart(x, a_buffer);
    if (copies_b) y = apart(y, b_buffer);
    product(x, y, end - begin, begin == 0 ? beta : 1.0f);
  }
}

void gemm_one_thread(Trans trans_a, Trans trans_b, double alpha, MatView<const double> a,
                     MatView<const double> b, double beta, MatView<double> c) {
  gemm(trans_a, trans_b, alpha, a, b, beta, c);
}

void gram(MatView<const float> a, MatView<float> c, float beta) {
  gram_in_tiles(a, c, [&](MatView<const float> x, MatView<const float> y, MatView<float> tile) {
    gemm_one_thread(Trans::kYes, Trans::kNo, 1.0f, x, y, beta, tile);
  });
}

void gram_bf16(MatView<const uint16_t> a, bool accumulate, MatView<float> c) {
  if (c.rows >= kMinStrips * kStripRows && takes_strips(c.rows, c.cols, a.rows))
    return product_in_strips(Trans::kYes, Trans::kNo, a, a, accumulate, true, c);
  gram_in_tiles(a, c,
                [&](MatView<const uint16_t> x, MatView<const uint16_t> y, MatView<float> tile) {
                  gemm_bf16_one_thread(Trans::kYes, Trans::kNo, x, y, accumulate, tile);
                });
}

}  // namespace laos::linalg
