#include "save/pairs.h"

#include <cstring>

namespace laos::save {
namespace {

// What is in a file need not be aligned.
Mat<uint16_t> bits_of(const TensorView& tensor) {
  Mat<uint16_t> bits(tensor.shape[0], tensor.shape[1]);
  std::memcpy(bits.data(), tensor.data, static_cast<size_t>(tensor.size_bytes()));
  return bits;
}

bool is_repeated(const Mat<uint16_t>& m, int64_t rows) {
  for (int64_t i = 0; i < m.rows(); ++i)
    for (int64_t j = 0; j < m.cols(); ++j)
      if (m(i, j) != (i / rows == j / rows ? m(i % rows, j % rows) : 0)) return false;
  return true;
}

}  // namespace

Mat<uint16_t> repeated_block(const TensorView& left, const TensorView& right) {
  const Mat<uint16_t> l = bits_of(left), r = bits_of(right);
  for (int64_t i = 0; i < l.rows(); ++i)
    for (int64_t j = 0; j < l.cols(); ++j)
      if (l(i, j) != (i == j ? one_of(left.dtype) : 0)) return {};
  int64_t rows = 1;
  while (r.rows() % rows != 0 || !is_repeated(r, rows)) ++rows;
  Mat<uint16_t> block(rows, rows);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < rows; ++j) block(i, j) = r(i, j);
  return block;
}

bool can_repeat(int64_t in_features, int64_t ranks, int64_t rows) {
  if (rows == 0 || in_features % ranks != 0) return false;
  const scheme::PairSizes sizes = scheme::pair_sizes(in_features / ranks);
  return sizes.refusal.empty() && sizes.right % rows == 0;
}

}  // namespace laos::save
