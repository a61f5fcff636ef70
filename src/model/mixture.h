// The mixture of experts that some layers have in place of one MLP: a router gives each token the
// num_experts_per_tok experts of the largest softmax probabilities, and a weight for each,
//   y = sum over these experts of weight * down(silu(gate(x)) * up(x)),
// in the order of experts, and to that, where there is a shared expert, sigmoid(g x) times what it
// makes of x.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "hf/layer_spec.h"

namespace laos::model {

template <class T>
class LinearsForward;
template <class T>
class LinearsBackward;

// What a mixture chooses and weighs by; both are null in layers that have none.
template <class T>
struct Routers {
  const T* experts = nullptr;        // [num_experts, hidden_size]
  const T* shared_expert = nullptr;  // [1, hidden_size]; null without a shared expert
};

// What forward leaves of a batch. Rows of the first kind are pairs of a token and an expert that it
// goes to: experts in order, and the tokens of each in order.
template <class T>
struct MixtureSaved {
  std::vector<int64_t> offsets;  // [num_experts + 1]: where the rows of each expert begin
  std::vector<int64_t> tokens;   // of the batch, by row
  std::vector<T> weights;        // of what the expert makes of the token, by row
  Mat<T> x;                      // [rows, hidden_size]: what gate and up read
  Mat<T> gate, up, act;          // [rows, moe_intermediate_size]; act is what down reads
  // Of the shared expert, a row a token. It reads what forward read, [n, hidden_size].
  MatView<const T> shared_x = {};
  Mat<T> shared_gate, shared_up, shared_act;  // [tokens, shared_expert_intermediate_size]
  std::vector<T> shared_weights;              // of what it makes of each token
  Mat<T> y;                                   // [tokens, hidden_size]: what one expert makes
  // Backward only.
  Mat<T> shared_y;  // [tokens, hidden_size]: what the shared expert makes
  Mat<T> d_act;     // [tokens, the widest of an expert]

  // Unless these are empty, token i of what forward reads goes to the experts held_experts[k i] to
  // held_experts[k i + k - 1], in order, with these weights, whatever the routers say; k =
  // num_experts_per_tok. Must outlive forward.
  std::span<const int32_t> held_experts = {};
  std::span<const T> held_weights = {};

  MixtureSaved(const hf::Config& config, int64_t max_tokens, bool with_backward = false);
  static int64_t num_values(const hf::Config& config, int64_t max_tokens,
                            bool with_backward = false) noexcept;

  // What the linears of an expert's group read: a row for each token that goes to the expert. As
  // long as what forward read.
  MatView<const T> input_of(hf::LinearGroup group) const;
};

// Where tokens go, told by token: token i to the experts [k i] to [k i + k - 1], in order, with
// these weights; k = num_experts_per_tok.
struct TokenRoutes {
  std::vector<int32_t> experts;
  std::vector<float> weights;

  static int64_t size_bytes(const hf::Config& config, int64_t num_tokens) noexcept {
    return config.num_experts_per_tok * num_tokens * int64_t{sizeof(int32_t) + sizeof(float)};
  }
};
// Of the tokens that forward or route() has read.
TokenRoutes routes_by_token(const hf::Config& config, const MixtureSaved<float>& saved);

// Sets offsets, tokens and weights of `saved`: which experts the tokens x [n, hidden_size] go to.
template <class T>
void route(const hf::Config& config, const Routers<T>& routers, MatView<const T> x,
           MixtureSaved<T>& saved, DType dtype = DType::kF32);

// y [n, hidden_size] = mixture(x [n, hidden_size]). Which experts a token goes to, and where the
// linears treat rows independently all of what it gets, does not depend on the tokens beside it.
// Where `dtype` is not kF32, what each operation but the linears gives is rounded to it. Products
// are made expert by expert; the same bytes on any number of threads. y must not overlap x.
template <class T>
void mixture_forward(const hf::Config& config, const Routers<T>& routers,
                     LinearsForward<T>& linears, MatView<const T> x, MixtureSaved<T>& saved,
                     MatView<T> y, DType dtype = DType::kF32);

// Given d_y = ∂loss/∂y and saved as forward left it, calls `linears` for the groups of every expert
// that a token went to, down and then gate_up, and sets d_x = ∂loss/∂x [n, hidden_size] unless its
// data is null. Which experts a token goes to and their weights count as given. Overwrites
// saved.gate, saved.up and their like of the shared expert.
template <class T>
void mixture_backward(const hf::Config& config, const Routers<T>& routers,
                      LinearsBackward<T>& linears, MixtureSaved<T>& saved, MatView<const T> d_y,
                      MatView<T> d_x);

}  // namespace laos::model
