// The steps of the fast Hadamard transform of a row. The same bits on every instruction set: each
// sum has one order.
#pragma once

#include <cstdint>

namespace laos::linalg::kernels {

// x[j] *= signs[j] for j < n, then Sylvester's butterflies in each run of `run`, a power of two
// that divides n.
void butterflies(float* x, const float* signs, int64_t n, int64_t run) noexcept;

// (x[j], x[j + half]) <- (x[j] + x[j + half], x[j] - x[j + half]) for j < half.
void butterfly(float* x, int64_t half) noexcept;

// x[p run + u] <- sum_q A[p][q] x[q run + u], u < run, in place, A [order, order] of ±1, order a
// multiple of 4 and at most 256. codes [order, order / 4]: bit b of codes[p][g] is set where
// A[p][4 g + b] is -1. The sums of the 16 sign patterns of four inputs are formed once and looked
// up by all p, a quarter of the additions.
void mix(float* x, const uint8_t* codes, int64_t order, int64_t run) noexcept;

}  // namespace laos::linalg::kernels
