// Causal attention with shared keys (GQA) over a ragged batch, forward and backward: the products
// and the softmax between them. Scores of one block of queries exist at a time.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "hf/config.h"
#include "linalg/gemm.h"
#include "model/ragged.h"

namespace laos::model {

// Rows of q and out are tokens of the batch, heads side by side [n, num_attention_heads *
// head_dim]; rows of k and v are the tokens of each sequence from its first on, [batch.past + n,
// num_key_value_heads * head_dim]. q and k are rotated. With kBf16 (T = float) the operands of all
// products, probabilities and their gradients among them, are rounded to bfloat16; softmax and sums
// stay in T.
template <class T>
void attention_forward(const hf::Config& config, const Ragged& batch, linalg::ComputeType compute,
                       MatView<const T> q, MatView<const T> k, MatView<const T> v, MatView<T> out);

// Inverts attention_forward; probabilities are computed again rather than kept. Sets d_q [n, ...]
// from d_out, and d_k and d_v [batch.past + n, ...]: sets those of the batch's tokens and adds to
// those of earlier parts. Sums of a sequence in parts have the order of one that is whole where
// parts are multiples of 128 tokens.
template <class T>
void attention_backward(const hf::Config& config, const Ragged& batch, linalg::ComputeType compute,
                        MatView<const T> q, MatView<const T> k, MatView<const T> v,
                        MatView<const T> d_out, MatView<T> d_q, MatView<T> d_k, MatView<T> d_v);

// Bytes that either takes on each thread, T = float, where the longest sequence has `longest`
// tokens; what is kept from call to call is no more.
int64_t attention_scratch_bytes(const hf::Config& config, int64_t longest, bool with_backward);

}  // namespace laos::model
