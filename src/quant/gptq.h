// Weights quantized in closed form: error feedback against the Hessian of their inputs (GPTQ), and
// a least-squares refit that runs before it.
#pragma once

#include <array>
#include <cstdint>

#include "core/tensor.h"
#include "quant/int_weight.h"
#include "quant/scheme.h"

namespace laos::quant {

struct GptqOptions {
  double damp = 0.01;        // of the Hessian's mean diagonal, added to its diagonal; >= 0
  bool act_order = true;     // columns of the largest inputs first, so that the others absorb them
  int64_t block = 128;       // columns between products; changes rounding only
  bool search_scale = true;  // shrink the range where that lowers the error; else quantize_rtn's
  int64_t refine = 0;        // rounds of improving codes, then scales, that are there
};

// Codes that minimise tr((W - Ŵ) H (W - Ŵ)ᵀ) greedily, column by column: each column takes up what
// those before it have lost, then is rounded half to even. Scales are fixed before (per group:
// static groups); the search weights a column's error by what it costs after the columns behind it
// have made up for it, in the order that act_order gives. `weight` f32
// [out_features, in_features] and `hessian` f32 [in_features, in_features] = XᵀX, X the inputs as
// the quantized layer will see them, are only read; `hessian` is symmetric, and a multiple of it
// gives the same codes but for f32's rounding. A column whose inputs are all zero is rounded to
// nearest. A round of `refine` passes twice over all columns and sets each code to the best one
// given all others, then each scale to the best one given the codes (rounded to its dtype), in the
// damped Hessian: no step makes the error larger but for rounding. Where the damped Hessian is not
// positive definite to f32's precision the damping grows tenfold (from at least 1e-3) until it is.
// Holds one more matrix of the Hessian's size, of which it touches half, and one of the weight's.
// Sums are f32 in a fixed order: the same bytes on any number of threads. Throws Error(kNumeric)
// when `weight` or `hessian` holds NaN or infinity, naming row and column, and when damping by the
// whole mean diagonal does not help. Group sizes that do not divide in_features are the caller's to
// refuse (LAOS_ASSERT). Source: Frantar et al. 2022, arXiv:2210.17323; computed as in Chee et al.
// 2023, arXiv:2307.13304 (LDLQ).
IntWeight quantize_gptq(MatView<const float> weight, MatView<const float> hessian,
                        const WeightSpec& spec, const GptqOptions& options);

// The weight that repeats, on quantized inputs Xq, what `weight` does on the inputs X:
// argmin ‖X Wᵀ - Xq W'ᵀ‖² + λ ‖W - W'‖² = W (XᵀXq + λI) (XqᵀXq + λI)⁻¹, f32 [out_features,
// in_features] like `weight`. `cross` = XqᵀX and `hessian` = XqᵀXq, f32 [in_features, in_features],
// λ = damp * mean(diag(hessian)). The result is W + share (W' - W), share from 0 to 1: half of the
// way has three quarters of the gain on the tokens of the products and a quarter of the noise that
// too few of them leave. All three are only read; holds one more matrix of the Hessian's size.
// Damping, determinism and errors as in quantize_gptq.
Mat<float> refit(MatView<const float> weight, MatView<const float> cross,
                 MatView<const float> hessian, double damp, double share = 1);
// The same in the memory of `cross` (its values are lost), where three such matrices do not fit.
Mat<float> refit(MatView<const float> weight, Mat<float>&& cross, MatView<const float> hessian,
                 double damp, double share = 1);

// How a weight is refitted; share 0: not at all.
struct Refit {
  double damp = 0, share = 0;  // of refit() above
};
// The dampings that are tried below.
inline constexpr std::array kRefitDamps = {0.01, 0.3};
// The refit that loses least on tokens which `cross` and `hessian`, those of refit() over
// `num_tokens` others, do not hold: `x` f32 [n, in_features] as the linear reads them, `xq` as they
// are quantized. For each damping the best share follows from these tokens; it is made larger as if
// the products held them too, since a solution of more tokens has less noise. Share 0 where no
// damping gains anything, or without such tokens. Determinism and errors as in refit(); holds one
// more matrix of the Hessian's size, two of the weight's, one of `x` and two [n, out_features].
Refit choose_refit(MatView<const float> weight, MatView<const float> cross,
                   MatView<const float> hessian, int64_t num_tokens, MatView<const float> x,
                   MatView<const float> xq);

}  // namespace laos::quant
