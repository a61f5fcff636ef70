// The steps of the fast Hadamard transform of a row. All but mix_paley80 give the same bits on
// every instruction set: each sum has one order.
#pragma once

#include <array>
#include <complex>
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

// Paley's kernel of order 80 by a convolution: A = I + S, and S is, but for the order and the signs
// of what it reads and writes, a convolution of 80 values that changes sign where it goes around,
// with every second result negated. linalg/hadamard.cpp derives it.
struct Paley80 {
  struct Pair {
    int64_t low, high;              // the input that is z[k], and the one that is z[k + 40]
    std::complex<float> twist_low;  // its sign there, times exp(pi i k / 80)
    std::complex<float> twist_high;
  };
  std::array<Pair, 40> pairs;  // [8 a + b] is that of k = (25 b + 16 a) mod 40: b mod 8, a mod 5
  std::array<std::complex<float>, 40> spectrum;  // of what z is convolved with, [5 f + g]
};

// mix with order 80, `codes` being those of Paley's kernel, in half the time: z[k] + i z[k + 40],
// times exp(pi i k / 80), goes through a Fourier transform of 8 * 5 points, is multiplied by the
// spectrum and goes back; that is 20 operations a value, most of them on registers. Errors are a
// few roundings of a column's norm; the bits are not those of mix.
void mix_paley80(float* x, const uint8_t* codes, const Paley80& paley, int64_t run) noexcept;

}  // namespace laos::linalg::kernels
