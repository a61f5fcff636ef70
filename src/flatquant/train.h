// Pairs of matrices trained on what rounding to 4 bits does to the outputs behind them.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "flatquant/pair.h"

namespace laos::flatquant {

// What each value loses when its row is rounded to 4 bits, the largest magnitude of a row times
// `clip` at the largest code 7: in steps of the row, -1/2 .. 1/2; or the code that a value beyond
// the codes saturates at, -8 or 7.
template <class T>
Mat<T> rounding_steps(const Mat<T>& x, T clip);

// Tokens z = x P [n, in], weights w = W P⁻ᵀ [k, in], and what rounding does to both.
template <class T>
struct Rounded {
  Mat<T> z, w;
  Mat<T> z_steps, w_steps;  // rounding_steps of both
  T clip = 1;               // of z
};

// Of the sum below, per relative change: P becomes P (I + left ⊗ I + I ⊗ right), the clip clip
// exp(log_clip).
template <class T>
struct PairGradient {
  Mat<T> left, right;  // [l, l], [r, r]
  T log_clip = 0;
};

// ‖(z' - z) wᵀ‖² + solved ‖z (w' - w)ᵀ‖², z' and w' the rounded ones, and its gradient with what
// is lost held at so many steps: the steps' sizes are differentiated, the rounding is not.
// Blocks of l * r inputs share the pair.
template <class T>
T rounding_loss(const Rounded<T>& rounded, T solved, PairGradient<T>& gradient);

// `start` trained on tokens `x` [n, in] for linears `weight` [out, in], by Adam on rounding_loss of
// a few tokens and outputs a step. Its clip begins at `clip` and changes where `learns_clip`; what
// is the best one for the result is the caller's to find out. `solved` as in rounding_loss. Where a
// step leaves the numbers, what was there before. Same bytes on any number of threads.
Pair train(Pair start, MatView<const float> x, MatView<const float> weight, float clip,
           bool learns_clip, double solved);

// Floating-point operations of that.
double train_flops(int64_t out_features, int64_t in_features, int64_t left, int64_t right,
                   int64_t num_tokens);

}  // namespace laos::flatquant
