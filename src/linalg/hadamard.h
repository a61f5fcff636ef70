// Random Hadamard matrices of the sizes K * 2^k that spec 6.2 lists, as sign flips and a fast
// transform.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace laos::linalg {

// The kernel A_K (spec Appendix A), entries +1 and -1, row-major [K, K], A Aᵀ = K I. Throws
// Error(kUnsupported) for an order without a table.
std::vector<int8_t> hadamard_kernel(int64_t order);

// How a size factors as order * 2^k: the largest order of spec 6.2 that divides it into a power of
// two (1 for powers of two), or 0 when there is none.
int64_t hadamard_order(int64_t size) noexcept;
// "sizes are K * 2^k with K one of 1, 12, ...", for messages.
std::string hadamard_sizes();

// M of spec 6.2: M[i][j] = s_i * A_K[p][q] * (-1)^popcount(t & u) / sqrt(m), i = q r + t, j = p r +
// u, r = m / K; block-diagonal with equal blocks of `block_size` m when that is not -1. Orthogonal.
// Signs come from MT19937(1234) anew for every matrix.
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
