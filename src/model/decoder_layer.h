// One Qwen3 decoder layer, forward and backward (spec 5.5), over a ragged batch of sequences.
// Templated on the scalar: float is what runs, double is the truth that gradients are checked
// against.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "linalg/gemm.h"
#include "model/checkpoint.h"

namespace laos::model {

// Linears that read the same input, in the order of `linears_of`.
enum class LinearGroup { kQkv, kO, kGateUp, kDown };
inline constexpr std::array<LinearGroup, 4> kAllLinearGroups = {
    LinearGroup::kQkv, LinearGroup::kO, LinearGroup::kGateUp, LinearGroup::kDown};
std::span<const Linear> linears_of(LinearGroup group) noexcept;

// Applies a group's linears. The layer knows shapes only: float weights, weights in training and
// integer weights are implementations of this.
template <class T>
class LinearsForward {
 public:
  virtual ~LinearsForward() = default;
  // ys[i] = x Wᵢᵀ, x [num_tokens, in_features], ys[i] [num_tokens, out_features].
  virtual void forward(LinearGroup group, MatView<const T> x, std::span<const MatView<T>> ys) = 0;
};

template <class T>
class LinearsBackward {
 public:
  virtual ~LinearsBackward() = default;
  // Given d_ys[i] and the input x of forward, sets d_x = sum_i d_ys[i] Wᵢ (skipped when d_x.data is
  // null) and does what it wants with ∂loss/∂Wᵢ = d_ys[i]ᵀ x. Called once per group, in the order
  // down, gate_up, o, qkv.
  virtual void backward(LinearGroup group, MatView<const T> x,
                        std::span<const MatView<const T>> d_ys, MatView<T> d_x) = 0;
};

// cos and sin of the rotary angles, [max_tokens, head_dim / 2]: angle = position * rope_theta^(-2 i
// / head_dim).
template <class T>
struct Rope {
  Mat<T> cos;
  Mat<T> sin;

  Rope(const hf::Config& config, int64_t max_tokens);
};

// Norm gains of a layer; each row-vector is read only.
template <class T>
struct LayerNorms {
  const T* input_layernorm;           // [hidden_size]
  const T* post_attention_layernorm;  // [hidden_size]
  const T* q_norm;                    // [head_dim]
  const T* k_norm;                    // [head_dim]
};
LayerNorms<float> norms_of(const LayerWeights& weights) noexcept;

// Sequences laid end to end: sequence s is rows [offsets[s], offsets[s + 1]). No padding, no masks.
// A sequence may come in parts, each a batch of its own, in order.
struct Ragged {
  std::vector<int64_t> offsets = {0};
  int64_t past = 0;  // tokens of the sequence that came in earlier parts; then there is no other

  int64_t num_sequences() const noexcept { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t num_tokens() const noexcept { return offsets.back(); }
  int64_t length(int64_t s) const noexcept {
    return offsets[static_cast<size_t>(s + 1)] - offsets[static_cast<size_t>(s)];
  }
  void append(int64_t num_new_tokens) { offsets.push_back(offsets.back() + num_new_tokens); }
};

// What forward leaves for backward, and backward's own scratch; sized once for the largest batch.
// k_rotated and v also hold the rows of the earlier parts of a sequence that comes in parts, so
// they have `max_keys` rows: the longest sequence or the largest batch.
template <class T>
struct LayerSaved {
  // Rows are tokens of the batch.
  Mat<T> input_normed;          // [n, hidden_size]: what q/k/v read
  Mat<T> q, k, v;               // [n, heads * head_dim]: outputs of the linears, before q/k norm
  Mat<T> q_rotated, k_rotated;  // after q/k norm and RoPE
  Mat<T> attention;             // [n, num_attention_heads * head_dim]: what o reads
  Mat<T> hidden;                // [n, hidden_size]: x + o
  Mat<T> hidden_normed;         // [n, hidden_size]: what gate/up read
  Mat<T> gate, up, act;         // [n, intermediate_size]; act is what down reads
  Buffer<T> input_inv_rms, hidden_inv_rms;  // [n]
  Mat<T> q_inv_rms, k_inv_rms;              // [n, heads]
  // Backward only; empty when made for forward.
  Mat<T> d_act;               // [n, intermediate_size]
  Mat<T> d_hidden, d_normed;  // [n, hidden_size]
  Mat<T> d_attention, d_q, d_k, d_v;

  LayerSaved(const hf::Config& config, int64_t max_tokens, bool with_backward,
             int64_t max_keys = 0);

  // What the linears of a group read.
  const Mat<T>& input_of(LinearGroup group) const noexcept {
    switch (group) {
      case LinearGroup::kQkv:
        return input_normed;
      case LinearGroup::kO:
        return attention;
      case LinearGroup::kGateUp:
        return hidden_normed;
      case LinearGroup::kDown:
        break;
    }
    return act;
  }
};

// Gradients of the norm gains, each added to.
template <class T>
struct NormGrads {
  T* input_layernorm;
  T* post_attention_layernorm;
  T* q_norm;
  T* k_norm;
};

// y [n, hidden_size] = layer(x [n, hidden_size]); n = batch.num_tokens(). y must not overlap x.
template <class T>
void layer_forward(const hf::Config& config, const LayerNorms<T>& norms, LinearsForward<T>& linears,
                   const Rope<T>& rope, const Ragged& batch, MatView<const T> x,
                   LayerSaved<T>& saved, MatView<T> y);

// The two halves of layer_forward: the first sets saved.hidden [n, hidden_size] = x + o(...), the
// second reads it; n = num_tokens.
template <class T>
void attention_half_forward(const hf::Config& config, const LayerNorms<T>& norms,
                            LinearsForward<T>& linears, const Rope<T>& rope, const Ragged& batch,
                            MatView<const T> x, LayerSaved<T>& saved);
template <class T>
void mlp_half_forward(const hf::Config& config, const LayerNorms<T>& norms,
                      LinearsForward<T>& linears, int64_t num_tokens, LayerSaved<T>& saved,
                      MatView<T> y);

// Given d_y = ∂loss/∂y, and saved as mlp_half_forward left it, calls linears.backward for down and
// gate_up: all that a layer needs of which only those are trained. saved.d_normed becomes
// ∂loss/∂saved.hidden_normed where that is wanted. Overwrites saved.gate and saved.up.
template <class T>
void mlp_half_backward(LinearsBackward<T>& linears, int64_t num_tokens, LayerSaved<T>& saved,
                       MatView<const T> d_y, bool wants_d_normed);

// Given d_y = ∂loss/∂y, and x and saved as forward left them, calls linears.backward for the four
// groups and sets d_x unless d_x.data is null. The batch has whole sequences. Gradients of norm
// gains are added to `d_norms` unless it is null. Overwrites saved.gate and saved.up.
template <class T>
void layer_backward(const hf::Config& config, const LayerNorms<T>& norms,
                    LinearsBackward<T>& linears, const Rope<T>& rope, const Ragged& batch,
                    MatView<const T> x, LayerSaved<T>& saved, MatView<const T> d_y, MatView<T> d_x,
                    const NormGrads<T>* d_norms = nullptr);

// Linears with plain float weights; optionally keeps ∂loss/∂W.
template <class T>
class FloatLinears : public LinearsForward<T>, public LinearsBackward<T> {
 public:
  using Weights = std::array<MatView<const T>, kNumLinears>;
  using Grads = std::array<MatView<T>, kNumLinears>;
  // Views must outlive this. `grads` entries with null data are not computed.
  explicit FloatLinears(const Weights& weights, const Grads& grads = {})
      : weights_(weights), grads_(grads) {}

  void forward(LinearGroup group, MatView<const T> x, std::span<const MatView<T>> ys) override;
  void backward(LinearGroup group, MatView<const T> x, std::span<const MatView<const T>> d_ys,
                MatView<T> d_x) override;

 private:
  Weights weights_;
  Grads grads_;
};
FloatLinears<float>::Weights views_of(const LayerWeights& weights) noexcept;

}  // namespace laos::model
