// One decoder layer, forward and backward, over a ragged batch of sequences:
//   hidden = x + o(attention(rope(q_norm(q(n1(x)))), rope(k_norm(k(n1(x)))), v(n1(x))))
//   y = hidden + down(silu(gate(n2(hidden))) * up(n2(hidden)))
// with RMSNorms n1 and n2, q_norm and k_norm over each head where the family has them. Layers with
// experts have these in place of the last line's MLP (mixture.h). Templated on the scalar: float is
// what runs, double is the truth that gradients are checked against.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "linalg/gemm.h"
#include "model/checkpoint.h"
#include "model/mixture.h"
#include "model/ragged.h"

namespace laos::model {

// Applies a group's linears. The layer knows shapes only: float weights, weights in training and
// integer weights are implementations of this.
template <class T>
class LinearsForward {
 public:
  virtual ~LinearsForward() = default;
  // ys[i] = x Wᵢᵀ + bᵢ, x [num_tokens, in_features], ys[i] [num_tokens, out_features]; bᵢ where the
  // linear has a bias.
  virtual void forward(LinearGroup group, MatView<const T> x, std::span<const MatView<T>> ys) = 0;
};

// Of a batch, group by group in the order down, gate_up, o, qkv: first the gradients of the group's
// inputs, some rows at a time, then those of its weights.
template <class T>
class LinearsBackward {
 public:
  virtual ~LinearsBackward() = default;
  // Given d_ys[i] of some rows, sets d_x = sum_i d_ys[i] Wᵢ.
  virtual void input_gradient(LinearGroup group, std::span<const MatView<const T>> d_ys,
                              MatView<T> d_x) = 0;
  // Given d_ys[i] and the input x of forward, does what it wants with ∂loss/∂Wᵢ = d_ys[i]ᵀ x,
  // a sum over the pieces that end at rows `ends`, in order. Those of d_ys with null data are left
  // out.
  virtual void weight_gradient(LinearGroup group, MatView<const T> x,
                               std::span<const MatView<const T>> d_ys,
                               std::span<const int64_t> ends) = 0;

  // Both, of a batch in one piece; d_x is not wanted when its data is null.
  void backward(LinearGroup group, MatView<const T> x, std::span<const MatView<const T>> d_ys,
                MatView<T> d_x) {
    if (d_x.data != nullptr) input_gradient(group, d_ys, d_x);
    const int64_t end = x.rows;
    weight_gradient(group, x, d_ys, {&end, 1});
  }
};

// cos and sin of the rotary angles, [max_tokens, head_dim / 2]: angle = position * frequency(i),
// which is rope_theta^(-2 i / head_dim) where config.rope_scaling changes nothing. Throws
// Error(kUnsupported) when max_tokens, the longest sequence that is run, is more than
// config.sliding_window. kDynamic scales by max_tokens, for all sequences alike, where that is more
// than max_position_embeddings.
template <class T>
struct Rope {
  Mat<T> cos;
  Mat<T> sin;

  Rope(const hf::Config& config, int64_t max_tokens);
};
// Throws what Rope's constructor does.
void require_within_window(const hf::Config& config, int64_t max_tokens);

// y[:, j] += bias[j]; nothing where `bias` is null.
template <class T>
void add_bias(const T* bias, MatView<T> y);

// What a layer has besides its linears, only read: gains of norms, row-vectors, where q_norm and
// k_norm are null if the family has none; what its cache does to keys and values, null where the
// cache holds floats; and the routers of a mixture.
template <class T>
struct LayerNorms {
  const T* input_layernorm;           // [hidden_size]
  const T* post_attention_layernorm;  // [hidden_size]
  const T* q_norm;                    // [head_dim]
  const T* k_norm;                    // [head_dim]
  // [num_key_value_heads * head_dim], both or none: see round_to_cache.
  const T* key_scale = nullptr;
  const T* value_scale = nullptr;
  Routers<T> routers = {};
};
LayerNorms<float> norms_of(const LayerWeights& weights) noexcept;

// What runs through a layer at once: the samples [first, last), or a part of a sample that is too
// long to.
struct Piece {
  int64_t first;
  int64_t last;
  int64_t begin;  // row of the first token
  Ragged batch;
};
// Pieces of at most `max_tokens` tokens, in order. kPieceTokens is what products run at full rate
// with.
std::vector<Piece> pieces_of(const Ragged& samples, int64_t max_tokens);

inline constexpr int64_t kPieceTokens = 2048;

// What forward leaves for backward, and backward's own scratch; sized once. `max_tokens` rows for
// the largest batch; the matrices of keys and values have a row for every token of a sequence that
// comes in parts as well, so they have `max_keys` rows: the longest sequence or the largest batch.
template <class T>
struct LayerSaved {
  linalg::ComputeType compute = linalg::ComputeType::kF32;  // of attention's products
  // Rows are tokens of the batch.
  Mat<T> input_normed;   // [n, hidden_size]: what q/k/v read
  Mat<T> q;              // [n, heads * head_dim]: output of the linear, before q norm
  Mat<T> q_rotated;      // after q norm, where there is one, and RoPE
  Mat<T> attention;      // [n, num_attention_heads * head_dim]: what o reads
  Mat<T> hidden;         // [n, hidden_size]: x + o
  Mat<T> hidden_normed;  // [n, hidden_size]: what gate/up read
  Mat<T> gate, up, act;  // [n, intermediate_size]; act is what down reads; of layers with one MLP
  MixtureSaved<T> mixture;                  // of the others
  Buffer<T> input_inv_rms, hidden_inv_rms;  // [n]
  Mat<T> q_inv_rms;                         // [n, heads]
  Mat<T> k, k_rotated, v;                   // [keys, kv heads * head_dim]
  Mat<T> k_inv_rms;                         // [keys, kv heads]
  // Backward only; empty when made for forward.
  Mat<T> d_rows;  // [piece, intermediate_size or hidden_size]
  // These lie where gate, up and act were as far as they fit: nothing needs those by then.
  MatView<T> d_attention, d_q, d_k, d_v;
  Mat<T> own_d_attention, own_d_q, own_d_keys;

  LayerSaved(const hf::Config& config, int64_t max_tokens, bool with_backward,
             int64_t max_keys = 0);
  // Bytes that it takes.
  static int64_t size_bytes(const hf::Config& config, int64_t max_tokens, bool with_backward,
                            int64_t max_keys = 0);

  // What the linears of a group read of a batch of `n` tokens at row 0.
  MatView<const T> read_by(LinearGroup group, int64_t n) const {
    if (hf::expert_of(group) >= 0) return mixture.input_of(group);
    return input_of(group).view().slice_rows(0, n);
  }
  // All rows there is room for, of a group with a name.
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

// Where a batch stands in LayerSaved: its first row, and the row of its first sequence's first key.
struct Place {
  int64_t row = 0;
  int64_t key = 0;
};

// y [n, hidden_size] = layer(x [n, hidden_size]); n = batch.num_tokens(). y must not overlap x.
template <class T>
void layer_forward(const hf::Config& config, const LayerNorms<T>& norms, LinearsForward<T>& linears,
                   const Rope<T>& rope, const Ragged& batch, MatView<const T> x,
                   LayerSaved<T>& saved, MatView<T> y, Place place = {});

// The two halves of layer_forward: the first sets saved.hidden [n, hidden_size] = x + o(...), the
// second reads it.
template <class T>
void attention_half_forward(const hf::Config& config, const LayerNorms<T>& norms,
                            LinearsForward<T>& linears, const Rope<T>& rope, const Ragged& batch,
                            MatView<const T> x, LayerSaved<T>& saved, Place place = {});
template <class T>
void mlp_half_forward(const hf::Config& config, const LayerNorms<T>& norms,
                      LinearsForward<T>& linears, LayerSaved<T>& saved, MatView<T> y,
                      Place place = {});

// Of a layer with experts: where the first n tokens of saved.hidden go, into saved.mixture.
template <class T>
void route_mixture(const hf::Config& config, const LayerNorms<T>& norms, LayerSaved<T>& saved,
                   int64_t n);

// Given d_y = ∂loss/∂y and saved as mlp_half_forward left it, calls
// `linears` for down and gate_up, or for those of the experts (mixture_backward): all that a layer
// needs of which only those are trained. Where
// `wants_d_hidden`, d_y becomes ∂loss/∂saved.hidden, and the gradient of the norm's gain is added
// to `d_gain` unless that is null. Overwrites saved.gate and saved.up.
template <class T>
void mlp_half_backward(const hf::Config& config, const LayerNorms<T>& norms,
                       LinearsBackward<T>& linears, const Ragged& batch, LayerSaved<T>& saved,
                       MatView<T> d_y, bool wants_d_hidden, T* d_gain = nullptr);

// Given d_y = ∂loss/∂y and saved as forward left it, calls `linears` for the four groups and sets
// d_x unless d_x.data is null; the batch has whole sequences. Gradients of norm gains are added to
// `d_norms` unless it is null. x, what forward read, is wanted for d_x and d_norms only. Overwrites
// d_y, saved.gate, saved.up and saved.act.
template <class T>
void layer_backward(const hf::Config& config, const LayerNorms<T>& norms,
                    LinearsBackward<T>& linears, const Rope<T>& rope, const Ragged& batch,
                    MatView<const T> x, LayerSaved<T>& saved, MatView<T> d_y, MatView<T> d_x,
                    const NormGrads<T>* d_norms = nullptr);

// The same of one piece, without d_x and d_norms, for batches that are too large to be saved whole.
// Of a sequence that comes in parts the gradients of k and v are whole after the last part only;
// key_value_backward then takes them, part by part in order, with saved.input_normed of each.
template <class T>
void piece_backward(const hf::Config& config, const LayerNorms<T>& norms,
                    LinearsBackward<T>& linears, const Rope<T>& rope, const Ragged& piece,
                    bool is_part, LayerSaved<T>& saved, MatView<T> d_y);
template <class T>
void key_value_backward(const hf::Config& config, const LayerNorms<T>& norms,
                        LinearsBackward<T>& linears, const Rope<T>& rope, const Ragged& part,
                        LayerSaved<T>& saved);
// saved.input_normed, once more.
template <class T>
void normalize_inputs(const hf::Config& config, const LayerNorms<T>& norms, MatView<const T> x,
                      LayerSaved<T>& saved);

// Linears with plain float weights; optionally keeps ∂loss/∂W.
template <class T>
class FloatLinears : public LinearsForward<T>, public LinearsBackward<T> {
 public:
  // A null bias is none.
  struct Weights {
    PerLinear<MatView<const T>> linears;
    PerLinear<const T*> biases;
  };
  using Grads = PerLinear<MatView<T>>;
  // Views must outlive this. `grads` entries with null data are not computed.
  explicit FloatLinears(const Weights& weights, const Grads& grads = {})
      : weights_(weights), grads_(grads) {}

  void forward(LinearGroup group, MatView<const T> x, std::span<const MatView<T>> ys) override;
  void input_gradient(LinearGroup group, std::span<const MatView<const T>> d_ys,
                      MatView<T> d_x) override;
  void weight_gradient(LinearGroup group, MatView<const T> x,
                       std::span<const MatView<const T>> d_ys,
                       std::span<const int64_t> ends) override;

 private:
  Weights weights_;
  Grads grads_;
};
FloatLinears<float>::Weights views_of(const LayerWeights& weights);

}  // namespace laos::model
