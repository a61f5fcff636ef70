// The orthogonal polar factor.
#pragma once

#include "core/tensor.h"
#include "linalg/gemm.h"

namespace laos::linalg {

struct PolarResult {
  Mat<float> factor;  // [n, n]
  int64_t iterations = 0;
  double orthogonality = 0;  // max |QᵀQ - I|
};

// The orthogonal matrix nearest to c + ridge * ‖c‖_F / sqrt(n) * I, c [n, n] f32. The ridge makes
// the factor act as the identity where c says nothing (singular values far below it), so that it is
// reproducible for rank-deficient c; it bounds the condition number, hence the number of steps.
// Deterministic. c = 0 gives I. Throws Error(kNumeric) when c is not finite or the iteration does
// not converge. Source: the dynamically weighted Halley iteration, Nakatsukasa, Bai and Gygi 2010,
// by Cholesky factors; its last steps are Newton-Schulz.
PolarResult polar_factor(MatView<const float> c, double ridge = 1e-4);

// The nearest orthogonal matrix to a `q` [n, n] that is orthogonal but for accumulated rounding:
// two Newton-Schulz steps, which square the defect each.
void reorthogonalize(Mat<float>& q);

// What one step after the other works in.
struct NewtonSchulzRoom {
  Buffer<float> defect, before;
  Buffer<uint16_t> narrow_q, narrow_defect;
};

// One such step, products in `compute`: q + q (I - qᵀq) / 2. In bf16 a defect of the size of what q
// loses when it is rounded to bfloat16 stays.
void newton_schulz_step(Mat<float>& q, ComputeType compute, NewtonSchulzRoom& room);

// The largest singular value of x [n, n] that is symmetric or skew, from below: exact to many
// digits where it is far from the others, else a good part of it.
double spectral_norm(MatView<const float> x);

// Largest |QᵀQ - I| entry.
double orthogonality_error(MatView<const float> q);

}  // namespace laos::linalg
