// Pairs of matrices that are one small matrix repeated, so that they can be cut for several
// tensor parallel sizes: engines split the inputs of some linears over ranks, and all ranks have
// the same pair, of the sizes that scheme::pair_sizes gives for the inputs of one.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/error.h"
#include "core/tensor.h"
#include "scheme/schemes.h"

namespace laos::save {

template <class T>
struct MatrixPair {
  Mat<T> left, right;
};

// I ⊗ (I ⊗ block) of these sizes; `block` [n, n], n divides sizes.right. `one` is 1 as T holds it.
template <class T>
MatrixPair<T> repeated(MatView<const T> block, const scheme::PairSizes& sizes, T one) {
  MatrixPair<T> pair{.left = Mat<T>(sizes.left, sizes.left),
                     .right = Mat<T>(sizes.right, sizes.right)};
  const int64_t n = block.rows;
  LAOS_ASSERT(block.cols == n && n > 0 && sizes.right % n == 0);
  for (int64_t i = 0; i < sizes.left; ++i)
    for (int64_t j = 0; j < sizes.left; ++j) pair.left(i, j) = i == j ? one : T(0);
  for (int64_t i = 0; i < sizes.right; ++i)
    for (int64_t j = 0; j < sizes.right; ++j)
      pair.right(i, j) = i / n == j / n ? block.row(i % n)[j % n] : T(0);
  return pair;
}

// The bits of 1 in a dtype of 16 bits.
inline uint16_t one_of(DType dtype) { return dtype == DType::kBF16 ? 0x3f80 : 0x3c00; }

// The smallest block that the pair of a checkpoint, two matrices of the same 16-bit dtype, repeats,
// as bits; empty where `left` is not the identity.
Mat<uint16_t> repeated_block(const TensorView& left, const TensorView& right);

// Whether ranks that share `in_features` inputs can have pairs that repeat a block of `rows` rows.
bool can_repeat(int64_t in_features, int64_t ranks, int64_t rows);

}  // namespace laos::save
