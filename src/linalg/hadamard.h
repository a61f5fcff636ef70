// Random Hadamard matrices of sizes K * 2^k, as sign flips and a fast transform. A Hadamard matrix
// has entries +1 and -1 only, and its rows stand at right angles to each other. For sizes where
// none is known another orthogonal matrix stands in, whose entries are nearly as even.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace laos::linalg {

// The largest order of a kernel, and the largest odd number that a stand-in is made for.
inline constexpr int64_t kMaxKernelOrder = 512;
inline constexpr int64_t kMaxStandInOrder = 1023;

// The kernel A_K, entries +1 and -1, row-major [K, K], A Aᵀ = K I. The published scheme's orders
// have its matrices; all others are made by the constructions of Paley (1933) for q a prime or its
// square: order q + 1 where q mod 4 is 3, order 2 (q + 1) where it is 1. Throws Error(kUnsupported)
// for an order that has none of these.
std::vector<int8_t> hadamard_kernel(int64_t order);

// How a size factors as order * 2^k: by the largest order of the published scheme that divides it
// into a power of two, else 1 for powers of two, else by the smallest order with a kernel. 0 where
// there is none.
int64_t hadamard_order(int64_t size) noexcept;
// The order of what stands in where hadamard_order is 0: the odd factor of the size. 0 where that
// is above kMaxStandInOrder: then there is no RandomHadamard of this size.
int64_t stand_in_order(int64_t size) noexcept;
// "Hadamard matrices are known of ...", for messages.
std::string hadamard_sizes();

// M[i][j] = s_i * A_K[p][q] * (-1)^popcount(t & u) / sqrt(m), with i = q r + t, j = p r + u and
// r = m / K. Where `block_size` m is not -1, M has equal blocks of that size on its diagonal and
// zeros elsewhere. M is orthogonal. The sign s_i is +1 where the i-th number of MT19937(seed) is
// odd; every matrix begins with a fresh generator. Kernels and signs are those of the published
// scheme where it has that size, so that a rotation is the same matrix there and here.
//
// Where no Hadamard matrix is known, A_K with K odd is Hartley's matrix: A[p][q] = cos(2 pi p q /
// K)
// + sin(2 pi p q / K). A Aᵀ = K I holds for it too, and no entry is larger than sqrt(2).
class RandomHadamard {
 public:
  // Throws Error(kUnsupported) when the size (or the block) has neither a kernel nor a stand-in, or
  // when the block does not divide the size.
  RandomHadamard(int64_t size, int64_t block_size = -1, uint32_t seed = 1234);

  int64_t size() const noexcept { return size_; }
  // rows [n, size] <- rows * M, in place, O(size (log r + K / 4)) a row.
  void apply_right(MatView<float> rows) const;
  // The matrix itself [size, size], its entries as M is defined.
  Mat<float> dense() const;

 private:
  // Paley's kernel alone has that order.
  bool has_paley80() const noexcept { return core_order_ == 80; }
  bool has_stand_in() const noexcept { return stand_in_.size() != 0; }
  void make_kernel();

  int64_t size_;
  int64_t block_;               // m
  int64_t order_;               // K
  Mat<float> stand_in_;         // Hartley's matrix [K, K]; empty where there is a kernel
  int64_t core_order_ = 1;      // of the kernel that K is doubled from
  std::vector<uint8_t> codes_;  // its signs, see kernels::mix and kernels::mix_paley80
  std::vector<float> signs_;    // s_i / sqrt(m), [m], times those that the kernel's inputs carry
};

}  // namespace laos::linalg
