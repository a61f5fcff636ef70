// The steps of the fast Hadamard transform of a row. All but mix_paley80 give the same bits on
// every instruction set: each sum has one order.
#pragma once

#include <array>
#include <complex>
#include <cstdint>

namespace laos::linalg::kernels {

// x[j] *= signs[j] for j < n, then Sylvester's butterflies in each run of `run`, a power of two
// that divides n, and where x is doubled the one between its halves, of an even n. `next` [n] is
// what will be transformed then, fetched from memory meanwhile; x itself where that is nothing.
void butterflies(float* x, const float* signs, int64_t n, int64_t run, bool is_doubled,
                 const float* next) noexcept;

// (x[j], x[j + half]) <- (x[j] + x[j + half], x[j] - x[j + half]) for j < half.
void butterfly(float* x, int64_t half) noexcept;

// x[p run + u] <- sum_q A[p][q] x[q run + u], u < run, in place, A [order, order] of ±1, order a
// multiple of 4 and at most 512. codes [order, order / 4]: bit b of codes[p][g] is set where
// A[p][4 g + b] is -1. The sums of the 16 sign patterns of four inputs are formed once and looked
// up by all p, a quarter of the additions.
void mix(float* x, const uint8_t* codes, int64_t order, int64_t run) noexcept;

// Paley's kernel of order 80 by a convolution. A = D (I + C) D with signs D = diag(s) and, but for
// the order of what it reads and writes, C a convolution of 80 values that changes sign where it
// goes around, with every second result negated. linalg/hadamard.cpp derives it.
struct Paley80 {
  struct Pair {
    int64_t low, high;          // inputs whose values are re and im of a point of the transform
    float sign_low, sign_high;  // s of these
  };
  std::array<std::array<Pair, 5>, 8> pairs;      // [b][a] of the points of a transform of 8 * 5
  std::array<std::complex<float>, 8> twists;     // exp(pi i b / 16)
  std::array<std::complex<float>, 8> untwists;   // exp(-pi i b / 16), negated where results are
  std::array<std::complex<float>, 40> spectrum;  // of what is convolved with, [8 g + f]
};

// x <- A D x for inputs that carry their signs already, that is mix with order 80 and `codes` those
// of A D, in less than half the time: 16 * 5 values go through a Fourier transform of 8 * 5 complex
// points, are multiplied by the spectrum and go back; that is 20 operations a value, most of them
// on registers. Errors are a few roundings of a column's norm; the bits are not those of mix.
void mix_paley80(float* x, const uint8_t* codes, const Paley80& paley, int64_t run) noexcept;

}  // namespace laos::linalg::kernels
