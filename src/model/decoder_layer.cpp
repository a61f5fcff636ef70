#include "model/decoder_layer.h"

#include <algorithm>
#include <cmath>

#include "core/threads.h"
#include "model/kernels/elementwise.h"

namespace laos::model {

using linalg::Trans;

namespace {

constexpr int64_t kRowGrain = 16;     // tokens a task of elementwise work
constexpr int64_t kQueryBlock = 128;  // queries whose scores exist at a time

// One (sequence, KV head) of attention; all its query heads are done by one task, so that the sums
// into d_k and d_v have one order.
struct AttentionTask {
  int64_t begin;  // first row of the sequence
  int64_t length;
  int64_t kv_head;
};

AttentionTask attention_task(const Ragged& batch, int64_t num_kv_heads, int64_t t) {
  const int64_t s = t / num_kv_heads;
  return {batch.offsets[static_cast<size_t>(s)], batch.length(s), t % num_kv_heads};
}

// Columns of head h, rows of the sequence.
template <class T>
MatView<T> head_of(Mat<T>& matrix, const AttentionTask& task, int64_t h, int64_t head_dim) {
  return matrix.view()
      .slice_rows(task.begin, task.begin + task.length)
      .slice_cols(h * head_dim, (h + 1) * head_dim);
}

// probabilities [block, end] = softmax over keys 0..query of q kᵀ / sqrt(head_dim), 0 beyond the
// query.
template <class T>
void attention_probabilities(MatView<const T> q_block, MatView<const T> keys, int64_t first_query,
                             T scale, MatView<T> probabilities) {
  linalg::gemm_one_thread(Trans::kNo, Trans::kYes, T(1), q_block, keys, T(0), probabilities);
  for (int64_t i = 0; i < q_block.rows; ++i) {
    T* row = probabilities.row(i);
    const int64_t visible = first_query + i + 1;
    kernels::softmax(row, scale, visible);
    std::fill(row + visible, row + probabilities.cols, T(0));
  }
}

template <class T>
void attention_forward(const hf::Config& config, const Ragged& batch, LayerSaved<T>& saved) {
  const int64_t hd = config.head_dim,
                group = config.num_attention_heads / config.num_key_value_heads;
  const T scale = T(1) / std::sqrt(static_cast<T>(hd));
  const int64_t past = batch.past;
  parallel_for(batch.num_sequences() * config.num_key_value_heads, [&](int64_t t) {
    const AttentionTask task = attention_task(batch, config.num_key_value_heads, t);
    const AttentionTask seen{task.begin, past + task.length, task.kv_head};
    Buffer<T> scratch(std::min(kQueryBlock, task.length) * seen.length);
    const MatView<T> keys = head_of(saved.k_rotated, seen, task.kv_head, hd);
    const MatView<T> values = head_of(saved.v, seen, task.kv_head, hd);
    for (int64_t h = task.kv_head * group; h < (task.kv_head + 1) * group; ++h) {
      const MatView<T> queries = head_of(saved.q_rotated, task, h, hd);
      const MatView<T> out = head_of(saved.attention, task, h, hd);
      for (int64_t begin = 0; begin < task.length; begin += kQueryBlock) {
        const int64_t end = std::min(begin + kQueryBlock, task.length), num_keys = past + end;
        const MatView<T> p{scratch.data(), end - begin, num_keys, num_keys};
        attention_probabilities<T>(queries.slice_rows(begin, end), keys.slice_rows(0, num_keys),
                                   past + begin, scale, p);
        linalg::gemm_one_thread(Trans::kNo, Trans::kNo, T(1), MatView<const T>(p),
                                MatView<const T>(values.slice_rows(0, num_keys)), T(0),
                                out.slice_rows(begin, end));
      }
    }
  });
}

// Inverts attention_forward; probabilities are computed again rather than kept. Sets d_q, d_k (with
// respect to the rotated q and k) and d_v from d_attention.
template <class T>
void attention_backward(const hf::Config& config, const Ragged& batch, LayerSaved<T>& saved) {
  const int64_t hd = config.head_dim,
                group = config.num_attention_heads / config.num_key_value_heads;
  const T scale = T(1) / std::sqrt(static_cast<T>(hd));
  parallel_for(batch.num_sequences() * config.num_key_value_heads, [&](int64_t t) {
    const AttentionTask task = attention_task(batch, config.num_key_value_heads, t);
    const int64_t scores = std::min(kQueryBlock, task.length) * task.length;
    Buffer<T> p_scratch(scores), d_scratch(scores);
    const MatView<const T> keys = head_of(saved.k_rotated, task, task.kv_head, hd);
    const MatView<const T> values = head_of(saved.v, task, task.kv_head, hd);
    const MatView<T> d_keys = head_of(saved.d_k, task, task.kv_head, hd);
    const MatView<T> d_values = head_of(saved.d_v, task, task.kv_head, hd);
    for (int64_t i = 0; i < task.length; ++i) {
      std::fill_n(d_keys.row(i), hd, T(0));
      std::fill_n(d_values.row(i), hd, T(0));
    }
    for (int64_t h = task.kv_head * group; h < (task.kv_head + 1) * group; ++h) {
      const MatView<const T> queries = head_of(saved.q_rotated, task, h, hd);
      const MatView<const T> d_out = head_of(saved.d_attention, task, h, hd);
      const MatView<T> d_queries = head_of(saved.d_q, task, h, hd);
      for (int64_t begin = 0; begin < task.length; begin += kQueryBlock) {
        const int64_t end = std::min(begin + kQueryBlock, task.length);
        const MatView<T> p{p_scratch.data(), end - begin, end, end},
            d_p{d_scratch.data(), end - begin, end, end};
        const MatView<const T> q_block = queries.slice_rows(begin, end),
                               d_out_block = d_out.slice_rows(begin, end);
        attention_probabilities<T>(q_block, keys.slice_rows(0, end), begin, scale, p);
        // out = p v
        linalg::gemm_one_thread(Trans::kNo, Trans::kYes, T(1), d_out_block,
                                values.slice_rows(0, end), T(0), d_p);
        linalg::gemm_one_thread(Trans::kYes, Trans::kNo, T(1), MatView<const T>(p), d_out_block,
                                T(1), d_values.slice_rows(0, end));
        // p = softmax(scale * q kᵀ); beyond the query p is 0, hence so is its gradient
        for (int64_t i = 0; i < end - begin; ++i)
          kernels::softmax_backward(p.row(i), scale, d_p.row(i), end);
        linalg::gemm_one_thread(Trans::kNo, Trans::kNo, T(1), MatView<const T>(d_p),
                                keys.slice_rows(0, end), T(0), d_queries.slice_rows(begin, end));
        linalg::gemm_one_thread(Trans::kYes, Trans::kNo, T(1), MatView<const T>(d_p), q_block, T(1),
                                d_keys.slice_rows(0, end));
      }
    }
  });
}

// rotated = rope(norm(x)) for every head of every token; positions restart with each sequence.
template <class T>
void head_norm_rope_forward(const hf::Config& config, const Rope<T>& rope, const Ragged& batch,
                            const T* gain, const Mat<T>& x, MatView<T> rotated, Mat<T>& inv_rms) {
  const int64_t hd = config.head_dim, heads = x.cols() / hd;
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    const int64_t begin = batch.offsets[static_cast<size_t>(s)];
    parallel_for_ranges(batch.length(s), kRowGrain, [&](int64_t first, int64_t last) {
      for (int64_t position = first; position < last; ++position) {
        const int64_t i = begin + position;
        for (int64_t h = 0; h < heads; ++h) {
          T* y = rotated.row(i) + h * hd;
          inv_rms(i, h) = kernels::rms_norm(x.row(i) + h * hd, gain,
                                            static_cast<T>(config.rms_norm_eps), y, hd);
          kernels::rope(y, rope.cos.row(batch.past + position), rope.sin.row(batch.past + position),
                        false, hd / 2);
        }
      }
    });
  }
}

// Inverts head_norm_rope_forward in place: d becomes the gradient with respect to x. The gain's
// gradient is added to d_gain unless that is null.
template <class T>
void head_norm_rope_backward(const hf::Config& config, const Rope<T>& rope, const Ragged& batch,
                             const T* gain, const Mat<T>& x, const Mat<T>& inv_rms, Mat<T>& d,
                             T* d_gain) {
  const int64_t hd = config.head_dim, heads = x.cols() / hd;
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    const int64_t begin = batch.offsets[static_cast<size_t>(s)];
    parallel_for_ranges(batch.length(s), kRowGrain, [&](int64_t first, int64_t last) {
      for (int64_t position = first; position < last; ++position)
        for (int64_t h = 0; h < heads; ++h)
          kernels::rope(d.row(begin + position) + h * hd, rope.cos.row(position),
                        rope.sin.row(position), true, hd / 2);
    });
  }
  if (d_gain != nullptr)
    for (int64_t i = 0; i < batch.num_tokens(); ++i)
      for (int64_t j = 0; j < heads * hd; ++j)
        d_gain[j % hd] += d(i, j) * x(i, j) * inv_rms(i, j / hd);
  parallel_for_ranges(batch.num_tokens(), kRowGrain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t h = 0; h < heads; ++h)
        kernels::rms_norm_backward(d.row(i) + h * hd, x.row(i) + h * hd, gain, inv_rms(i, h), false,
                                   d.row(i) + h * hd, hd);
  });
}

template <class T>
void norm_forward(const hf::Config& config, const T* gain, MatView<const T> x, MatView<T> y,
                  T* inv_rms) {
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      inv_rms[i] =
          kernels::rms_norm(x.row(i), gain, static_cast<T>(config.rms_norm_eps), y.row(i), x.cols);
  });
}

// Adds to d_x the gradient through y = norm(x).
template <class T>
void norm_backward(const T* gain, MatView<const T> x, const T* inv_rms, MatView<const T> d_y,
                   MatView<T> d_x, T* d_gain) {
  if (d_gain != nullptr)
    for (int64_t i = 0; i < x.rows; ++i)
      for (int64_t j = 0; j < x.cols; ++j) d_gain[j] += d_y.row(i)[j] * x.row(i)[j] * inv_rms[i];
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      kernels::rms_norm_backward(d_y.row(i), x.row(i), gain, inv_rms[i], true, d_x.row(i), x.cols);
  });
}

template <class T>
void add_rows(MatView<const T> x, MatView<T> y) {
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels::add(x.row(i), y.row(i), x.cols);
  });
}

template <class T>
void copy_rows(MatView<const T> x, MatView<T> y) {
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::copy_n(x.row(i), x.cols, y.row(i));
  });
}

}  // namespace

std::span<const Linear> linears_of(LinearGroup group) noexcept {
  static constexpr std::array kQkv = {Linear::kQProj, Linear::kKProj, Linear::kVProj};
  static constexpr std::array kO = {Linear::kOProj};
  static constexpr std::array kGateUp = {Linear::kGateProj, Linear::kUpProj};
  static constexpr std::array kDown = {Linear::kDownProj};
  switch (group) {
    case LinearGroup::kQkv:
      return kQkv;
    case LinearGroup::kO:
      return kO;
    case LinearGroup::kGateUp:
      return kGateUp;
    case LinearGroup::kDown:
      return kDown;
  }
  return {};
}

LayerNorms<float> norms_of(const LayerWeights& weights) noexcept {
  return {weights.input_layernorm.data(), weights.post_attention_layernorm.data(),
          weights.q_norm.data(), weights.k_norm.data()};
}

FloatLinears<float>::Weights views_of(const LayerWeights& weights) noexcept {
  FloatLinears<float>::Weights views;
  for (const Linear l : kAllLinears) views[static_cast<size_t>(l)] = weights[l].view();
  return views;
}

template <class T>
Rope<T>::Rope(const hf::Config& config, int64_t max_tokens)
    : cos(max_tokens, config.head_dim / 2), sin(max_tokens, config.head_dim / 2) {
  const int64_t half = config.head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double frequency = std::pow(
        config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    for (int64_t position = 0; position < max_tokens; ++position) {
      cos(position, i) = static_cast<T>(std::cos(static_cast<double>(position) * frequency));
      sin(position, i) = static_cast<T>(std::sin(static_cast<double>(position) * frequency));
    }
  }
}

template <class T>
LayerSaved<T>::LayerSaved(const hf::Config& config, int64_t max_tokens, bool with_backward,
                          int64_t max_keys) {
  max_keys = std::max(max_keys, max_tokens);
  const int64_t n = max_tokens, hidden_size = config.hidden_size,
                intermediate_size = config.intermediate_size;
  const int64_t q_size = config.num_attention_heads * config.head_dim;
  const int64_t kv_size = config.num_key_value_heads * config.head_dim;
  input_normed = Mat<T>(n, hidden_size);
  q = Mat<T>(n, q_size);
  k = Mat<T>(n, kv_size);
  v = Mat<T>(max_keys, kv_size);
  q_rotated = Mat<T>(n, q_size);
  k_rotated = Mat<T>(max_keys, kv_size);
  attention = Mat<T>(n, q_size);
  hidden = Mat<T>(n, hidden_size);
  hidden_normed = Mat<T>(n, hidden_size);
  gate = Mat<T>(n, intermediate_size);
  up = Mat<T>(n, intermediate_size);
  act = Mat<T>(n, intermediate_size);
  input_inv_rms = Buffer<T>(n);
  hidden_inv_rms = Buffer<T>(n);
  q_inv_rms = Mat<T>(n, config.num_attention_heads);
  k_inv_rms = Mat<T>(n, config.num_key_value_heads);
  if (!with_backward) return;
  d_act = Mat<T>(n, intermediate_size);
  d_hidden = Mat<T>(n, hidden_size);
  d_normed = Mat<T>(n, hidden_size);
  d_attention = Mat<T>(n, q_size);
  d_q = Mat<T>(n, q_size);
  d_k = Mat<T>(n, kv_size);
  d_v = Mat<T>(n, kv_size);
}

template <class T>
void attention_half_forward(const hf::Config& config, const LayerNorms<T>& norms,
                            LinearsForward<T>& linears, const Rope<T>& rope, const Ragged& batch,
                            MatView<const T> x, LayerSaved<T>& saved) {
  const int64_t n = batch.num_tokens();
  LAOS_ASSERT(x.rows == n && saved.hidden.rows() >= n);
  LAOS_ASSERT(batch.past == 0 || batch.num_sequences() == 1);
  LAOS_ASSERT(saved.v.rows() >= batch.past + n && rope.cos.rows() >= batch.past);
  const auto rows = [n](Mat<T>& matrix) { return matrix.view().slice_rows(0, n); };
  const auto key_rows = [n, &batch](Mat<T>& matrix) {
    return matrix.view().slice_rows(batch.past, batch.past + n);
  };
  // hidden = x + o(attention(q, k, v))
  norm_forward(config, norms.input_layernorm, x, rows(saved.input_normed),
               saved.input_inv_rms.data());
  const std::array qkv = {rows(saved.q), rows(saved.k), key_rows(saved.v)};
  linears.forward(LinearGroup::kQkv, rows(saved.input_normed), qkv);
  head_norm_rope_forward(config, rope, batch, norms.q_norm, saved.q, rows(saved.q_rotated),
                         saved.q_inv_rms);
  head_norm_rope_forward(config, rope, batch, norms.k_norm, saved.k, key_rows(saved.k_rotated),
                         saved.k_inv_rms);
  attention_forward(config, batch, saved);
  const std::array o = {rows(saved.hidden)};
  linears.forward(LinearGroup::kO, rows(saved.attention), o);
  add_rows(x, rows(saved.hidden));
}

template <class T>
void mlp_half_forward(const hf::Config& config, const LayerNorms<T>& norms,
                      LinearsForward<T>& linears, int64_t num_tokens, LayerSaved<T>& saved,
                      MatView<T> y) {
  LAOS_ASSERT(y.rows == num_tokens && saved.hidden.rows() >= num_tokens);
  const auto rows = [num_tokens](Mat<T>& matrix) {
    return matrix.view().slice_rows(0, num_tokens);
  };
  // y = hidden + down(silu(gate) * up)
  norm_forward<T>(config, norms.post_attention_layernorm, rows(saved.hidden),
                  rows(saved.hidden_normed), saved.hidden_inv_rms.data());
  const std::array gate_up = {rows(saved.gate), rows(saved.up)};
  linears.forward(LinearGroup::kGateUp, rows(saved.hidden_normed), gate_up);
  parallel_for_ranges(num_tokens, kRowGrain, [&](int64_t begin, int64_t end) {
    kernels::silu_mul(saved.gate.row(begin), saved.up.row(begin), saved.act.row(begin),
                      (end - begin) * config.intermediate_size);
  });
  const std::array down = {y};
  linears.forward(LinearGroup::kDown, rows(saved.act), down);
  add_rows<T>(rows(saved.hidden), y);
}

template <class T>
void layer_forward(const hf::Config& config, const LayerNorms<T>& norms, LinearsForward<T>& linears,
                   const Rope<T>& rope, const Ragged& batch, MatView<const T> x,
                   LayerSaved<T>& saved, MatView<T> y) {
  attention_half_forward(config, norms, linears, rope, batch, x, saved);
  mlp_half_forward(config, norms, linears, batch.num_tokens(), saved, y);
}

template <class T>
void mlp_half_backward(LinearsBackward<T>& linears, int64_t num_tokens, LayerSaved<T>& saved,
                       MatView<const T> d_y, bool wants_d_normed) {
  LAOS_ASSERT(d_y.rows == num_tokens && saved.d_hidden.rows() >= num_tokens);
  const auto rows = [num_tokens](Mat<T>& matrix) {
    return matrix.view().slice_rows(0, num_tokens);
  };
  const auto const_rows = [num_tokens](const Mat<T>& matrix) {
    return matrix.view().slice_rows(0, num_tokens);
  };
  // y = hidden + down(silu(gate) * up)
  const std::array d_down = {d_y};
  linears.backward(LinearGroup::kDown, const_rows(saved.act), d_down, rows(saved.d_act));
  parallel_for_ranges(num_tokens, kRowGrain, [&](int64_t begin, int64_t end) {
    kernels::silu_mul_backward(saved.d_act.row(begin), saved.gate.row(begin), saved.up.row(begin),
                               saved.gate.row(begin), saved.up.row(begin),
                               (end - begin) * saved.act.cols());
  });
  const std::array d_gate_up = {const_rows(saved.gate), const_rows(saved.up)};
  linears.backward(LinearGroup::kGateUp, const_rows(saved.hidden_normed), d_gate_up,
                   wants_d_normed ? rows(saved.d_normed) : MatView<T>{});
}

template <class T>
void layer_backward(const hf::Config& config, const LayerNorms<T>& norms,
                    LinearsBackward<T>& linears, const Rope<T>& rope, const Ragged& batch,
                    MatView<const T> x, LayerSaved<T>& saved, MatView<const T> d_y, MatView<T> d_x,
                    const NormGrads<T>* d_norms) {
  const int64_t n = batch.num_tokens();
  LAOS_ASSERT(x.rows == n && d_y.rows == n && saved.d_hidden.rows() >= n && batch.past == 0);
  const auto rows = [n](Mat<T>& matrix) { return matrix.view().slice_rows(0, n); };
  const auto const_rows = [n](const Mat<T>& matrix) { return matrix.view().slice_rows(0, n); };

  mlp_half_backward(linears, n, saved, d_y, true);
  copy_rows(d_y, rows(saved.d_hidden));
  norm_backward(norms.post_attention_layernorm, const_rows(saved.hidden),
                saved.hidden_inv_rms.data(), const_rows(saved.d_normed), rows(saved.d_hidden),
                d_norms ? d_norms->post_attention_layernorm : nullptr);

  // hidden = x + o(attention(q, k, v))
  const std::array d_o = {const_rows(saved.d_hidden)};
  linears.backward(LinearGroup::kO, const_rows(saved.attention), d_o, rows(saved.d_attention));
  attention_backward(config, batch, saved);
  head_norm_rope_backward(config, rope, batch, norms.q_norm, saved.q, saved.q_inv_rms, saved.d_q,
                          d_norms ? d_norms->q_norm : nullptr);
  head_norm_rope_backward(config, rope, batch, norms.k_norm, saved.k, saved.k_inv_rms, saved.d_k,
                          d_norms ? d_norms->k_norm : nullptr);
  const bool wants_d_x = d_x.data != nullptr || d_norms != nullptr;
  const std::array d_qkv = {const_rows(saved.d_q), const_rows(saved.d_k), const_rows(saved.d_v)};
  linears.backward(LinearGroup::kQkv, const_rows(saved.input_normed), d_qkv,
                   wants_d_x ? rows(saved.d_normed) : MatView<T>{});
  if (!wants_d_x) return;
  norm_backward(norms.input_layernorm, x, saved.input_inv_rms.data(), const_rows(saved.d_normed),
                rows(saved.d_hidden), d_norms ? d_norms->input_layernorm : nullptr);
  if (d_x.data != nullptr) copy_rows(const_rows(saved.d_hidden), d_x);
}

template <class T>
void FloatLinears<T>::forward(LinearGroup group, MatView<const T> x,
                              std::span<const MatView<T>> ys) {
  const std::span<const Linear> linears = linears_of(group);
  for (size_t i = 0; i < linears.size(); ++i)
    linalg::gemm(Trans::kNo, Trans::kYes, T(1), x, weights_[static_cast<size_t>(linears[i])], T(0),
                 ys[i]);
}

template <class T>
void FloatLinears<T>::backward(LinearGroup group, MatView<const T> x,
                               std::span<const MatView<const T>> d_ys, MatView<T> d_x) {
  const std::span<const Linear> linears = linears_of(group);
  for (size_t i = 0; i < linears.size(); ++i) {
    const auto l = static_cast<size_t>(linears[i]);
    if (d_x.data != nullptr)
      linalg::gemm(Trans::kNo, Trans::kNo, T(1), d_ys[i], weights_[l], i == 0 ? T(0) : T(1), d_x);
    if (grads_[l].data != nullptr)
      linalg::gemm(Trans::kYes, Trans::kNo, T(1), d_ys[i], x, T(0), grads_[l]);
  }
}

#define LAOS_INSTANTIATE(T)                                                                        \
  template struct Rope<T>;                                                                         \
  template struct LayerSaved<T>;                                                                   \
  template class FloatLinears<T>;                                                                  \
  template void attention_half_forward<T>(const hf::Config&, const LayerNorms<T>&,                 \
                                          LinearsForward<T>&, const Rope<T>&, const Ragged&,       \
                                          MatView<const T>, LayerSaved<T>&);                       \
  template void mlp_half_forward<T>(const hf::Config&, const LayerNorms<T>&, LinearsForward<T>&,   \
                                    int64_t, LayerSaved<T>&, MatView<T>);                          \
  template void mlp_half_backward<T>(LinearsBackward<T>&, int64_t, LayerSaved<T>&,                 \
                                     MatView<const T>, bool);                                      \
  template void layer_forward<T>(const hf::Config&, const LayerNorms<T>&, LinearsForward<T>&,      \
                                 const Rope<T>&, const Ragged&, MatView<const T>, LayerSaved<T>&,  \
                                 MatView<T>);                                                      \
  template void layer_backward<T>(const hf::Config&, const LayerNorms<T>&, LinearsBackward<T>&,    \
                                  const Rope<T>&, const Ragged&, MatView<const T>, LayerSaved<T>&, \
                                  MatView<const T>, MatView<T>, const NormGrads<T>*);
LAOS_INSTANTIATE(float)
LAOS_INSTANTIATE(double)
#undef LAOS_INSTANTIATE

}  // namespace laos::model
