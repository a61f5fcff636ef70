// Random Hadamard matrices of sizes K * 2^k, as sign flips and a fast transform. A Hadamard matrix
// has entries +1 and -1 only, and its rows stand at right angles to each other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace laos::linalg {

// The kernel A_K, entries +1 and -1, row-major [K, K], A Aᵀ = K I. Throws
// Error(kUnsupported) for an order without a table.
std::vector<int8_t> hadamard_kernel(int64_t order);

// How a size factors as order * 2^k: the largest order with a kernel that divides it into a power
// of two (1 for powers of two), or 0 when there is none.
int64_t hadamard_order(int64_t size) noexcept;
// "sizes are K * 2^k with K one of 1, 12, ...", for messages.
std::string hadamard_sizes();

// M[i][j] = s_i * A_K[p][q] * (-1)^popcount(t & u) / sqrt(m), with i = q r + t, j = p r + u and
// r = m / K. Where `block_size` m is not -1, M has equal blocks of that size on its diagonal and
// zeros elsewhere. M is orthogonal. The sign s_i is +1 where the i-th number of MT19937(seed) is
// odd; every matrix begins with a fresh generator. Kernels and signs are those of the published
// scheme, so that a rotation is the same matrix there and here.
class RandomHadamard {
 public:
  // Throws Error(kUnsupported) when the size (or the block) has no factorisation, or when the block
  // does not divide the size.
  RandomHadamard(int64_t size, int64_t block_size = -1, uint32_t seed = 1234);

  int64_t size() const noexcept { return size_; }
  // rows [n, size] <- rows * M, in place, O(size (log r + K / 4)) a row.
  void apply_right(MatView<float> rows) const;
  // The matrix itself [size, size], its entries as M is defined.
  Mat<float> dense() const;

 private:
  // Paley's kernel alone has that order.
  bool has_paley80() const noexcept { return core_order_ == 80; }

  int64_t size_;
  int64_t block_;               // m
  int64_t order_;               // K
  int64_t core_order_ = 1;      // of the kernel that K is doubled from
  std::vector<uint8_t> codes_;  // its signs, see kernels::mix and kernels::mix_paley80
  std::vector<float> signs_;    // s_i / sqrt(m), [m], times those that the kernel's inputs carry
};

}  // namespace laos::linalg
