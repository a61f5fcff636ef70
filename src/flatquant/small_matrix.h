// Matrices of at most 256 rows in f64, by their definitions.
#pragma once

#include <optional>

#include "core/tensor.h"

namespace laos::flatquant {

// m⁻¹ of m [n, n], by elimination with row exchanges; nullopt when m is singular to f64's
// precision.
std::optional<Mat<double>> inverse(MatView<const float> m);

// The lower triangular L [n, n] with L Lᵀ = m; nullopt when m is not positive definite.
std::optional<Mat<double>> cholesky(const Mat<double>& m);

// A lower triangular P [n, n] with P Pᵀ = A⁻¹ # B, the geometric mean of A⁻¹ and B: of all
// matrices the one with the smallest tr(Pᵀ A P) * tr(P⁻¹ B P⁻ᵀ). Both [n, n] are symmetric and
// positive semidefinite; `damp` times their mean diagonal is added to their diagonals first, which
// bounds the condition of P. ‖P‖_F = sqrt(n). nullopt when they hold zeros only, or what is no
// number. Source: by Cholesky factors and a polar factor, Iannazzo 2016, "The geometric mean of two
// matrices from a computational viewpoint".
std::optional<Mat<float>> mean_factor(MatView<const float> a, MatView<const float> b, double damp);

}  // namespace laos::flatquant
