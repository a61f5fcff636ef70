// How far two computations of one model in f32 may lie apart.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "core/tensor.h"
#include "hf/config.h"

namespace laos::test {

// Of the logits of a small model after `num_tokens` tokens, computed twice with sums in another
// order, the weights of one side rotated or not. Errors of single steps are taken as independent.
//
// - A rounding is at most u = 2^-24 of the value. A sum of k products is off by u sqrt(k / 6 + 1)
// of
//   its own size: k partial sums are rounded, the j-th of which has sqrt(j / k) of the size, by
//   u / sqrt(3) on average, and the result once more.
// - A layer is a chain of ten such steps (two norms, q k v, scores, their weighted sum, o, gate and
//   up, their product, down, the sums with the residual), and a norm and the head follow the last.
//   Norms divide by the size, so a relative error stays what it is from step to step. Only scores
//   stand in an exponent: an error e of a score s becomes e s of its weight. Scores of these models
//   are 8 at most.
// - Angles of RoPE are at most num_tokens, from frequencies that the other side has in f32: off by
//   num_tokens u each for a query and a key, which scores see 8 times larger too.
// - A weight that was rotated on both sides and had a norm folded in is the result of two sums of
//   hidden_size terms and a product: each step with weights counts three times.
// - The largest of some hundred independent errors is four times the root mean square.
inline double logit_tolerance(const hf::Config& config, int64_t num_tokens, bool is_rotated,
                              const Mat<float>& logits) {
  constexpr double kU = FLT_EPSILON / 2, kScore = 8, kSteps = 10;
  const auto layers = static_cast<double>(config.num_hidden_layers);
  const auto terms =
      static_cast<double>(std::max({config.hidden_size, config.intermediate_size,
                                    config.num_attention_heads * config.head_dim, num_tokens}));
  const double sum = kU * std::sqrt(terms / 6 + 1),
               angle = kU * static_cast<double>(num_tokens) * std::sqrt(2.0);
  const double steps = layers * (kSteps - 1 + kScore * kScore) + 2;
  const double rounding = 4 * sum * std::sqrt((is_rotated ? 1 + 3 : 2) * steps),
               rope = angle * kScore * std::sqrt(layers);
  double squares = 0;
  for (int64_t i = 0; i < logits.size(); ++i)
    squares += double{logits.data()[i]} * logits.data()[i];
  return (rounding + rope) * std::sqrt(squares / static_cast<double>(logits.size()));
}

}  // namespace laos::test
