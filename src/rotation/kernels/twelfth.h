// Twelfth powers of a row and their slopes, which the range of a row is made of (token_range.h).
// SIMD on every instruction set; the definitions are in kernels/twelfth_scalar.h. Any alignment and
// length.
#pragma once

#include <cstdint>

namespace laos::rotation::kernels {

// Below a thousandth of the largest value a slope is 1e-33 of its largest or less, and counts as 0.
// Further down it would be denormal, and one such number in a hundred makes products several times
// slower.
inline constexpr float kSmallestSquare = 1e-6f;

// Σ u¹², u = z[i] * unit.
float sum_of_twelfth_powers(const float* z, float unit, int64_t n) noexcept;

// y[i] = factor * u¹¹, or 0 where u² < kSmallestSquare, u = z[i] * unit. y may be z.
void eleventh_powers(const float* z, float unit, float factor, float* y, int64_t n) noexcept;

}  // namespace laos::rotation::kernels
