#include "model/decoder_layer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <type_traits>

#include "core/error.h"
#include "core/threads.h"
#include "model/attention.h"
#include "model/cache_scales.h"
#include "model/kernels/elementwise.h"

namespace laos::model {

using linalg::Trans;

namespace {

constexpr int64_t kRowGrain = 16;  // tokens a task of elementwise work

// rotated = rope(norm(x)) for every head of every token; positions restart with each sequence.
// Row i of the views is token i of the batch. Without a gain there is no norm.
template <class T>
void head_norm_rope_forward(const hf::Config& config, const Rope<T>& rope, const Ragged& batch,
                            const T* gain, MatView<const T> x, MatView<T> rotated,
                            MatView<T> inv_rms) {
  const int64_t hd = config.head_dim, heads = x.cols / hd;
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    const int64_t begin = batch.offsets[static_cast<size_t>(s)];
    parallel_for_ranges(batch.length(s), kRowGrain, [&](int64_t first, int64_t last) {
      for (int64_t position = first; position < last; ++position) {
        const int64_t i = begin + position, angle = batch.past + position;
        for (int64_t h = 0; h < heads; ++h) {
          T* y = rotated.row(i) + h * hd;
          if (gain != nullptr)
            inv_rms.row(i)[h] = kernels::rms_norm(x.row(i) + h * hd, gain,
                                                  static_cast<T>(config.rms_norm_eps), y, hd);
          else
            std::copy_n(x.row(i) + h * hd, hd, y);
          kernels::rope(y, rope.cos.row(angle), rope.sin.row(angle), false, hd / 2);
        }
      }
    });
  }
}

// Inverts head_norm_rope_forward in place: d becomes the gradient with respect to x. The gain's
// gradient is added to d_gain unless that is null.
template <class T>
void head_norm_rope_backward(const hf::Config& config, const Rope<T>& rope, const Ragged& batch,
                             const T* gain, MatView<const T> x, MatView<const T> inv_rms,
                             MatView<T> d, T* d_gain) {
  const int64_t hd = config.head_dim, heads = x.cols / hd;
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    const int64_t begin = batch.offsets[static_cast<size_t>(s)];
    parallel_for_ranges(batch.length(s), kRowGrain, [&](int64_t first, int64_t last) {
      for (int64_t position = first; position < last; ++position)
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t angle = batch.past + position;
          kernels::rope(d.row(begin + position) + h * hd, rope.cos.row(angle), rope.sin.row(angle),
                        true, hd / 2);
        }
    });
  }
  if (gain == nullptr) return;
  if (d_gain != nullptr)
    for (int64_t i = 0; i < batch.num_tokens(); ++i)
      for (int64_t j = 0; j < heads * hd; ++j)
        d_gain[j % hd] += d.row(i)[j] * x.row(i)[j] * inv_rms.row(i)[j / hd];
  parallel_for_ranges(batch.num_tokens(), kRowGrain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t h = 0; h < heads; ++h)
        kernels::rms_norm_backward(d.row(i) + h * hd, x.row(i) + h * hd, gain, inv_rms.row(i)[h],
                                   false, d.row(i) + h * hd, hd);
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

// Rows [begin, end) of a matrix.
template <class T>
MatView<T> rows_of(Mat<T>& matrix, int64_t begin, int64_t end) {
  return matrix.view().slice_rows(begin, end);
}

// Where the pieces of a batch end that products go through at once.
std::vector<int64_t> ends_of(const Ragged& batch) {
  std::vector<int64_t> ends;
  for (const Piece& piece : pieces_of(batch, kPieceTokens))
    ends.push_back(piece.begin + piece.batch.num_tokens());
  return ends;
}

template <class F>
void for_pieces(const std::vector<int64_t>& ends, const F& f) {
  for (size_t p = 0; p < ends.size(); ++p) f(p == 0 ? 0 : ends[p - 1], ends[p]);
}

// Scratch for the gradient of a linear's input, of a piece of at most kPieceTokens tokens.
template <class T>
MatView<T> d_rows_of(LayerSaved<T>& saved, int64_t rows, int64_t cols) {
  return {saved.d_rows.data(), rows, cols, cols};  // [rows, cols]
}

// Where a batch's rows stand in LayerSaved, and the rows of its own keys and of all keys it sees.
template <class T>
struct Rows {
  Place place;
  int64_t n;         // tokens of the batch
  int64_t past = 0;  // tokens of its sequence before it

  MatView<T> operator()(Mat<T>& m) const { return rows_of(m, place.row, place.row + n); }
  MatView<T> own_keys(Mat<T>& m) const {
    return rows_of(m, place.key + past, place.key + past + n);
  }
  MatView<T> all_keys(Mat<T>& m) const { return rows_of(m, place.key, place.key + past + n); }
};

// The layer in five stages, each followed by its inverse. Backward goes through them from the last
// to the first, and d_y, the gradient of what the layer gives, becomes that of what it reads on the
// way. A stage backward takes rows [begin, end) where its products can go piece by piece.

// input_normed = n1(x); q, k, v = their linears of it
template <class T>
void qkv_forward(const hf::Config& config, const LayerNorms<T>& norms, LinearsForward<T>& linears,
                 MatView<const T> x, LayerSaved<T>& saved, const Rows<T>& rows) {
  norm_forward(config, norms.input_layernorm, x, rows(saved.input_normed),
               saved.input_inv_rms.data() + rows.place.row);
  const std::array qkv = {rows(saved.q), rows.own_keys(saved.k), rows.own_keys(saved.v)};
  linears.forward(LinearGroup::kQkv, rows(saved.input_normed), qkv);
}
template <class T>
void qkv_backward(const hf::Config& config, const LayerNorms<T>& norms, LinearsBackward<T>& linears,
                  LayerSaved<T>& saved, const std::array<MatView<const T>, 3>& d_qkv,
                  MatView<const T> x, MatView<T> d_y, int64_t begin, int64_t end, T* d_gain) {
  const MatView<T> d_normed = d_rows_of(saved, end - begin, config.hidden_size);
  std::array<MatView<const T>, 3> d_part = d_qkv;
  for (MatView<const T>& d : d_part) d = d.slice_rows(begin, end);
  linears.input_gradient(LinearGroup::kQkv, d_part, d_normed);
  // d_y becomes the gradient of x.
  norm_backward<T>(norms.input_layernorm, x.slice_rows(begin, end),
                   saved.input_inv_rms.data() + begin, d_normed, d_y.slice_rows(begin, end),
                   d_gain);
}

// attention = attention(rope(q_norm(q)), rope(k_norm(k)), v)
template <class T>
void heads_forward(const hf::Config& config, const LayerNorms<T>& norms, const Rope<T>& rope,
                   const Ragged& batch, LayerSaved<T>& saved, const Rows<T>& rows) {
  head_norm_rope_forward<T>(config, rope, batch, norms.q_norm, rows(saved.q), rows(saved.q_rotated),
                            rows(saved.q_inv_rms));
  head_norm_rope_forward<T>(config, rope, batch, norms.k_norm, rows.own_keys(saved.k),
                            rows.own_keys(saved.k_rotated), rows.own_keys(saved.k_inv_rms));
  if (norms.key_scale != nullptr) {
    const MatView<T> keys = rows.own_keys(saved.k_rotated), values = rows.own_keys(saved.v);
    parallel_for_ranges(rows.n, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        round_to_cache(norms.key_scale, DType::kF32, keys.row(i), keys.cols);
        round_to_cache(norms.value_scale, DType::kF32, values.row(i), values.cols);
      }
    });
  }
  attention_forward<T>(config, batch, saved.compute, rows(saved.q_rotated),
                       rows.all_keys(saved.k_rotated), rows.all_keys(saved.v),
                       rows(saved.attention));
}
// From d_attention to the gradients of the linears' q, k and v; those of k and v are whole, and go
// back through norm and RoPE, unless more parts of the sequence are to come.
template <class T>
void heads_backward(const hf::Config& config, const LayerNorms<T>& norms, const Rope<T>& rope,
                    const Ragged& batch, LayerSaved<T>& saved, bool keys_are_whole,
                    const NormGrads<T>* d_norms) {
  const int64_t n = batch.num_tokens();
  const Rows<T> rows{{}, n, batch.past};
  attention_backward<T>(config, batch, saved.compute, rows(saved.q_rotated),
                        rows.all_keys(saved.k_rotated), rows.all_keys(saved.v),
                        saved.d_attention.slice_rows(0, n), saved.d_q, saved.d_k, saved.d_v);
  head_norm_rope_backward<T>(config, rope, batch, norms.q_norm, rows(saved.q),
                             rows(saved.q_inv_rms), saved.d_q, d_norms ? d_norms->q_norm : nullptr);
  if (keys_are_whole)
    head_norm_rope_backward<T>(config, rope, batch, norms.k_norm, rows_of(saved.k, 0, n),
                               rows_of(saved.k_inv_rms, 0, n), saved.d_k,
                               d_norms ? d_norms->k_norm : nullptr);
}

// hidden = x + o(attention)
template <class T>
void o_forward(LinearsForward<T>& linears, MatView<const T> x, LayerSaved<T>& saved,
               const Rows<T>& rows) {
  const std::array o = {rows(saved.hidden)};
  linears.forward(LinearGroup::kO, rows(saved.attention), o);
  add_rows(x, rows(saved.hidden));
}
template <class T>
void o_backward(LinearsBackward<T>& linears, LayerSaved<T>& saved, MatView<const T> d_hidden,
                int64_t begin, int64_t end) {
  const std::array d_o = {d_hidden.slice_rows(begin, end)};
  linears.input_gradient(LinearGroup::kO, d_o, saved.d_attention.slice_rows(begin, end));
}

// hidden_normed = n2(hidden)
template <class T>
void hidden_norm_forward(const hf::Config& config, const LayerNorms<T>& norms, LayerSaved<T>& saved,
                         const Rows<T>& rows) {
  norm_forward<T>(config, norms.post_attention_layernorm, rows(saved.hidden),
                  rows(saved.hidden_normed), saved.hidden_inv_rms.data() + rows.place.row);
}
// gate, up = their linears of it
template <class T>
void gate_up_forward(LinearsForward<T>& linears, LayerSaved<T>& saved, const Rows<T>& rows) {
  const std::array gate_up = {rows(saved.gate), rows(saved.up)};
  linears.forward(LinearGroup::kGateUp, rows(saved.hidden_normed), gate_up);
}
// Both.
template <class T>
void gate_up_backward(const hf::Config& config, const LayerNorms<T>& norms,
                      LinearsBackward<T>& linears, LayerSaved<T>& saved, MatView<T> d_y,
                      int64_t begin, int64_t end, T* d_gain) {
  const MatView<T> d_normed = d_rows_of(saved, end - begin, config.hidden_size);
  const std::array<MatView<const T>, 2> d_gate_up = {rows_of(saved.gate, begin, end),
                                                     rows_of(saved.up, begin, end)};
  linears.input_gradient(LinearGroup::kGateUp, d_gate_up, d_normed);
  // d_y becomes the gradient of hidden.
  norm_backward<T>(norms.post_attention_layernorm, rows_of(saved.hidden, begin, end),
                   saved.hidden_inv_rms.data() + begin, d_normed, d_y.slice_rows(begin, end),
                   d_gain);
}

// act = silu(gate) * up; y = hidden + down(act)
template <class T>
void down_forward(LinearsForward<T>& linears, LayerSaved<T>& saved, const Rows<T>& rows,
                  MatView<T> y) {
  const MatView<T> gate = rows(saved.gate), up = rows(saved.up), act = rows(saved.act);
  parallel_for_ranges(y.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    kernels::silu_mul(gate.row(begin), up.row(begin), act.row(begin), (end - begin) * act.cols);
  });
  const std::array down = {y};
  linears.forward(LinearGroup::kDown, act, down);
  add_rows<T>(rows(saved.hidden), y);
}
// gate and up become their gradients.
template <class T>
void down_backward(LinearsBackward<T>& linears, LayerSaved<T>& saved, MatView<const T> d_y,
                   int64_t begin, int64_t end) {
  const int64_t n = end - begin, width = saved.act.cols();
  const MatView<T> d_act = d_rows_of(saved, n, width);
  const std::array d_down = {d_y.slice_rows(begin, end)};
  linears.input_gradient(LinearGroup::kDown, d_down, d_act);
  parallel_for_ranges(n, kRowGrain, [&](int64_t first, int64_t last) {
    T *gate = saved.gate.row(begin + first), *up = saved.up.row(begin + first);
    kernels::silu_mul_backward(d_act.row(first), gate, up, gate, up, (last - first) * width);
  });
}

}  // namespace

// What is not there has no data.
LayerNorms<float> norms_of(const LayerWeights& weights) noexcept {
  return {.input_layernorm = weights.input_layernorm.data(),
          .post_attention_layernorm = weights.post_attention_layernorm.data(),
          .q_norm = weights.q_norm.data(),
          .k_norm = weights.k_norm.data(),
          .routers = {weights.router.data(), weights.shared_expert_gate.data()}};
}

FloatLinears<float>::Weights views_of(const LayerWeights& weights) {
  FloatLinears<float>::Weights views;
  for (int64_t i = 0; i < weights.linears.size(); ++i) {
    const auto l = static_cast<Linear>(i);
    views.linears[l] = weights[l].view();
    views.biases[l] = weights.biases[l].data();
  }
  return views;
}

std::vector<Piece> pieces_of(const Ragged& samples, int64_t max_tokens) {
  std::vector<Piece> pieces;
  for (int64_t s = 0; s < samples.num_sequences(); ++s) {
    const int64_t begin = samples.offsets[static_cast<size_t>(s)], length = samples.length(s);
    const bool fits = !pieces.empty() && pieces.back().batch.past == 0 &&
                      pieces.back().batch.num_tokens() + length <= max_tokens;
    if (!fits) pieces.push_back({s, s, begin, {}});
    pieces.back().last = s + 1;
    if (length <= max_tokens) {
      pieces.back().batch.append(length);
      continue;
    }
    pieces.back().batch.append(max_tokens);
    for (int64_t past = max_tokens; past < length; past += max_tokens) {
      pieces.push_back({s, s + 1, begin + past, {.offsets = {0}, .past = past}});
      pieces.back().batch.append(std::min(max_tokens, length - past));
    }
  }
  return pieces;
}

namespace {

// Angles that a position adds to each pair of a head, [head_dim / 2].
std::vector<double> rope_frequencies(const hf::Config& config, int64_t max_tokens) {
  using Type = hf::RopeScaling::Type;
  const hf::RopeScaling& scaling = config.rope_scaling;
  const auto dims = static_cast<double>(config.head_dim);
  constexpr double kTurn = 2 * std::numbers::pi;
  double base = config.rope_theta;
  if (scaling.type == Type::kDynamic && max_tokens > config.max_position_embeddings) {
    // The slowest pair is stretched just so that the longest sequence turns as the trained one did.
    const double grown =
        static_cast<double>(max_tokens) / static_cast<double>(config.max_position_embeddings);
    base *= std::pow(scaling.factor * grown - (scaling.factor - 1), dims / (dims - 2));
  }
  std::vector<double> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i)
    frequencies[i] = std::pow(base, -2.0 * static_cast<double>(i) / dims);

  const auto trained = static_cast<double>(scaling.original_max_position_embeddings);
  switch (scaling.type) {
    case Type::kDefault:
    case Type::kDynamic:
      break;
    case Type::kLinear:
      for (double& frequency : frequencies) frequency /= scaling.factor;
      break;
    case Type::kLlama3:
      // Waves that fit often into the trained length stay, those that hardly do are stretched, and
      // between the two it goes over smoothly.
      for (double& frequency : frequencies) {
        const double waves = trained * frequency / kTurn;
        const double kept = std::clamp((waves - scaling.low_freq_factor) /
                                           (scaling.high_freq_factor - scaling.low_freq_factor),
                                       0.0, 1.0);
        frequency = (1 - kept) * frequency / scaling.factor + kept * frequency;
      }
      break;
    case Type::kYarn: {
      // The same idea, by the index of the pair.
      const auto index_of = [&](double turns) {  // of the pair that turns so often
        return dims * std::log(trained / (turns * kTurn)) / (2 * std::log(base));
      };
      double low = index_of(scaling.beta_fast), high = index_of(scaling.beta_slow);
      if (scaling.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
      }
      low = std::max(low, 0.0);
      high = std::min(high, dims - 1);
      if (high == low) high += 0.001;
      for (size_t i = 0; i < frequencies.size(); ++i) {
        const double stretched =
            std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        frequencies[i] *= stretched / scaling.factor + (1 - stretched);
      }
      break;
    }
  }
  return frequencies;
}

}  // namespace

void require_within_window(const hf::Config& config, int64_t max_tokens) {
  if (config.sliding_window == 0 || max_tokens <= config.sliding_window) return;
  throw Error(ErrorCode::kUnsupported,
              {.what = "a sequence of " + std::to_string(max_tokens) +
                       " tokens is longer than the model's sliding window of " +
                       std::to_string(config.sliding_window) + ", which laos does not compute",
               .where = "config.json: sliding_window",
               .fix = "use sequences of at most that many tokens"});
}

template <class T>
Rope<T>::Rope(const hf::Config& config, int64_t max_tokens)
    : cos(max_tokens, config.head_dim / 2), sin(max_tokens, config.head_dim / 2) {
  require_within_window(config, max_tokens);
  const std::vector<double> frequencies = rope_frequencies(config, max_tokens);
  const double gain = config.rope_scaling.attention_factor;
  for (int64_t i = 0; i < cos.cols(); ++i) {
    const double frequency = frequencies[static_cast<size_t>(i)];
    for (int64_t position = 0; position < max_tokens; ++position) {
      const double angle = static_cast<double>(position) * frequency;
      cos(position, i) = static_cast<T>(gain * std::cos(angle));
      sin(position, i) = static_cast<T>(gain * std::sin(angle));
    }
  }
}

template <class T>
void add_bias(const T* bias, MatView<T> y) {
  if (bias == nullptr) return;
  parallel_for_ranges(y.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels::add(bias, y.row(i), y.cols);
  });
}

template <class T>
LayerSaved<T>::LayerSaved(const hf::Config& config, int64_t max_tokens, bool with_backward,
                          int64_t max_keys)
    : mixture(config, max_tokens, with_backward) {
  max_keys = std::max(max_keys, max_tokens);
  const int64_t n = max_tokens, hidden_size = config.hidden_size,
                intermediate_size = hf::dense_intermediate_size(config);
  const int64_t q_size = config.num_attention_heads * config.head_dim;
  const int64_t kv_size = config.num_key_value_heads * config.head_dim;
  input_normed = Mat<T>(n, hidden_size);                     // [tokens, hidden_size]
  input_inv_rms = Buffer<T>(n);                              // [tokens]
  q = Mat<T>(n, q_size);                                     // [tokens, heads * head_dim]
  q_rotated = Mat<T>(n, q_size);                             // [tokens, heads * head_dim]
  q_inv_rms = Mat<T>(n, config.num_attention_heads);         // [tokens, heads]
  k = Mat<T>(max_keys, kv_size);                             // [keys, kv heads * head_dim]
  k_rotated = Mat<T>(max_keys, kv_size);                     // [keys, kv heads * head_dim]
  k_inv_rms = Mat<T>(max_keys, config.num_key_value_heads);  // [keys, kv heads]
  v = Mat<T>(max_keys, kv_size);                             // [keys, kv heads * head_dim]
  attention = Mat<T>(n, q_size);                             // [tokens, heads * head_dim]
  hidden = Mat<T>(n, hidden_size);                           // [tokens, hidden_size]
  hidden_inv_rms = Buffer<T>(n);                             // [tokens]
  hidden_normed = Mat<T>(n, hidden_size);                    // [tokens, hidden_size]
  gate = Mat<T>(n, intermediate_size);                       // [tokens, intermediate_size]
  up = Mat<T>(n, intermediate_size);                         // [tokens, intermediate_size]
  act = Mat<T>(n, intermediate_size);                        // [tokens, intermediate_size]
  if (!with_backward) return;
  // [tokens of a piece, intermediate_size or hidden_size]
  // [piece, widest]
  d_rows = Mat<T>(std::min(n, kPieceTokens), std::max(intermediate_size, hidden_size));
  // With keys of earlier parts, gradients of keys outlive the part's forward.
  const bool in_parts = max_keys > n;
  const auto fit = [](Mat<T>& place, Mat<T>& own, int64_t rows, int64_t cols, bool apart = false) {
    if (apart || place.size() < rows * cols) own = Mat<T>(rows, cols);
    return MatView<T>{own.size() != 0 ? own.data() : place.data(), rows, cols, cols};
  };
  d_attention = fit(act, own_d_attention, n, q_size);  // [tokens, heads * head_dim]
  d_q = fit(gate, own_d_q, n, q_size);                 // [tokens, heads * head_dim]
  // d_k and d_v, one below the other.
  const MatView<T> d_keys = fit(up, own_d_keys, 2 * max_keys, kv_size, in_parts);
  d_k = d_keys.slice_rows(0, max_keys);             // [keys, kv heads * head_dim]
  d_v = d_keys.slice_rows(max_keys, 2 * max_keys);  // [keys, kv heads * head_dim]
}

template <class T>
int64_t LayerSaved<T>::size_bytes(const hf::Config& config, int64_t max_tokens, bool with_backward,
                                  int64_t max_keys) {
  max_keys = std::max(max_keys, max_tokens);
  const int64_t n = max_tokens, hidden_size = config.hidden_size,
                intermediate_size = hf::dense_intermediate_size(config);
  const int64_t q_size = config.num_attention_heads * config.head_dim;
  const int64_t kv_size = config.num_key_value_heads * config.head_dim;
  int64_t size =
      n * (3 * hidden_size + 3 * q_size + 3 * intermediate_size + 2 + config.num_attention_heads) +
      max_keys * (3 * kv_size + config.num_key_value_heads) +
      MixtureSaved<T>::num_values(config, n, with_backward);
  if (with_backward) {
    size += std::min(n, kPieceTokens) * std::max(intermediate_size, hidden_size);
    if (q_size > intermediate_size) size += 2 * n * q_size;
    if (max_keys > n || 2 * kv_size > intermediate_size) size += 2 * max_keys * kv_size;
  }
  return size * static_cast<int64_t>(sizeof(T));
}

template <class T>
void attention_half_forward(const hf::Config& config, const LayerNorms<T>& norms,
                            LinearsForward<T>& linears, const Rope<T>& rope, const Ragged& batch,
                            MatView<const T> x, LayerSaved<T>& saved, Place place) {
  const int64_t n = batch.num_tokens();
  LAOS_ASSERT(x.rows == n && saved.hidden.rows() >= place.row + n);
  LAOS_ASSERT(batch.past == 0 || batch.num_sequences() == 1);
  LAOS_ASSERT(saved.v.rows() >= place.key + batch.past + n && rope.cos.rows() >= batch.past);
  const Rows<T> rows{place, n, batch.past};
  qkv_forward(config, norms, linears, x, saved, rows);
  heads_forward(config, norms, rope, batch, saved, rows);
  o_forward(linears, x, saved, rows);
}

namespace {

template <class T>
void attention_half_backward(const hf::Config& config, const LayerNorms<T>& norms,
                             LinearsBackward<T>& linears, const Rope<T>& rope, const Ragged& batch,
                             MatView<const T> x, LayerSaved<T>& saved, MatView<T> d_y,
                             bool wants_d_x, const NormGrads<T>* d_norms) {
  const int64_t n = batch.num_tokens();
  const auto rows = [n](Mat<T>& matrix) -> MatView<const T> { return rows_of(matrix, 0, n); };
  const std::vector<int64_t> ends = ends_of(batch);
  for_pieces(ends,
             [&](int64_t begin, int64_t end) { o_backward<T>(linears, saved, d_y, begin, end); });
  const std::array<MatView<const T>, 1> d_o = {d_y};
  linears.weight_gradient(LinearGroup::kO, rows(saved.attention), d_o, ends);

  heads_backward(config, norms, rope, batch, saved, true, d_norms);
  const std::array<MatView<const T>, 3> d_qkv = {
      saved.d_q.slice_rows(0, n), saved.d_k.slice_rows(0, n), saved.d_v.slice_rows(0, n)};
  if (wants_d_x || d_norms != nullptr)
    for_pieces(ends, [&](int64_t begin, int64_t end) {
      qkv_backward<T>(config, norms, linears, saved, d_qkv, x, d_y, begin, end,
                      d_norms ? d_norms->input_layernorm : nullptr);
    });
  linears.weight_gradient(LinearGroup::kQkv, rows(saved.input_normed), d_qkv, ends);
}

}  // namespace

template <class T>
void mlp_half_forward(const hf::Config& config, const LayerNorms<T>& norms,
                      LinearsForward<T>& linears, LayerSaved<T>& saved, MatView<T> y, Place place) {
  LAOS_ASSERT(saved.hidden.rows() >= place.row + y.rows);
  const Rows<T> rows{place, y.rows};
  hidden_norm_forward(config, norms, saved, rows);
  if (norms.routers.experts != nullptr) {
    mixture_forward<T>(config, norms.routers, linears, rows(saved.hidden_normed), saved.mixture, y);
    add_rows<T>(rows(saved.hidden), y);
    return;
  }
  gate_up_forward(linears, saved, rows);
  down_forward(linears, saved, rows, y);
}

template <class T>
void route_mixture(const hf::Config& config, const LayerNorms<T>& norms, LayerSaved<T>& saved,
                   int64_t n) {
  hidden_norm_forward(config, norms, saved, Rows<T>{{}, n});
  route<T>(config, norms.routers, rows_of(saved.hidden_normed, 0, n), saved.mixture);
}

template <class T>
void mlp_half_backward(const hf::Config& config, const LayerNorms<T>& norms,
                       LinearsBackward<T>& linears, const Ragged& batch, LayerSaved<T>& saved,
                       MatView<T> d_y, bool wants_d_hidden, T* d_gain) {
  const int64_t n = batch.num_tokens();
  LAOS_ASSERT(d_y.rows == n && saved.hidden.rows() >= n);
  if (norms.routers.experts != nullptr) {
    const MatView<T> d_normed =
        wants_d_hidden ? d_rows_of(saved, n, config.hidden_size) : MatView<T>{};
    mixture_backward<T>(config, norms.routers, linears, saved.mixture, d_y, d_normed);
    if (wants_d_hidden)
      norm_backward<T>(norms.post_attention_layernorm, rows_of(saved.hidden, 0, n),
                       saved.hidden_inv_rms.data(), d_normed, d_y, d_gain);
    return;
  }
  const auto rows = [n](Mat<T>& matrix) -> MatView<const T> { return rows_of(matrix, 0, n); };
  const std::vector<int64_t> ends = ends_of(batch);
  for_pieces(
      ends, [&](int64_t begin, int64_t end) { down_backward<T>(linears, saved, d_y, begin, end); });
  const std::array<MatView<const T>, 1> d_down = {d_y};
  linears.weight_gradient(LinearGroup::kDown, rows(saved.act), d_down, ends);
  if (wants_d_hidden)
    for_pieces(ends, [&](int64_t begin, int64_t end) {
      gate_up_backward(config, norms, linears, saved, d_y, begin, end, d_gain);
    });
  const std::array d_gate_up = {rows(saved.gate), rows(saved.up)};
  linears.weight_gradient(LinearGroup::kGateUp, rows(saved.hidden_normed), d_gate_up, ends);
}

template <class T>
void layer_forward(const hf::Config& config, const LayerNorms<T>& norms, LinearsForward<T>& linears,
                   const Rope<T>& rope, const Ragged& batch, MatView<const T> x,
                   LayerSaved<T>& saved, MatView<T> y, Place place) {
  attention_half_forward(config, norms, linears, rope, batch, x, saved, place);
  mlp_half_forward(config, norms, linears, saved, y, place);
}

template <class T>
void layer_backward(const hf::Config& config, const LayerNorms<T>& norms,
                    LinearsBackward<T>& linears, const Rope<T>& rope, const Ragged& batch,
                    MatView<const T> x, LayerSaved<T>& saved, MatView<T> d_y, MatView<T> d_x,
                    const NormGrads<T>* d_norms) {
  LAOS_ASSERT(batch.past == 0);
  const bool wants_d_x = d_x.data != nullptr;
  mlp_half_backward<T>(config, norms, linears, batch, saved, d_y, true,
                       d_norms ? d_norms->post_attention_layernorm : nullptr);
  attention_half_backward(config, norms, linears, rope, batch, x, saved, d_y, wants_d_x, d_norms);
  if (wants_d_x) copy_rows<T>(d_y, d_x);
}

template <class T>
void piece_backward(const hf::Config& config, const LayerNorms<T>& norms,
                    LinearsBackward<T>& linears, const Rope<T>& rope, const Ragged& piece,
                    bool is_part, LayerSaved<T>& saved, MatView<T> d_y) {
  const int64_t n = piece.num_tokens();
  LAOS_ASSERT(d_y.rows == n && n <= saved.d_rows.rows());
  const auto rows = [n](Mat<T>& matrix) -> MatView<const T> { return rows_of(matrix, 0, n); };
  const std::array<int64_t, 1> ends = {n};

  mlp_half_backward<T>(config, norms, linears, piece, saved, d_y, true, nullptr);
  o_backward<T>(linears, saved, d_y, 0, n);
  const std::array<MatView<const T>, 1> d_o = {d_y};
  linears.weight_gradient(LinearGroup::kO, rows(saved.attention), d_o, ends);
  heads_backward<T>(config, norms, rope, piece, saved, !is_part, nullptr);
  std::array<MatView<const T>, 3> d_qkv = {saved.d_q.slice_rows(0, n), {}, {}};
  if (!is_part) {
    d_qkv[1] = saved.d_k.slice_rows(0, n);
    d_qkv[2] = saved.d_v.slice_rows(0, n);
  }
  linears.weight_gradient(LinearGroup::kQkv, rows(saved.input_normed), d_qkv, ends);
}

template <class T>
void key_value_backward(const hf::Config& config, const LayerNorms<T>& norms,
                        LinearsBackward<T>& linears, const Rope<T>& rope, const Ragged& part,
                        LayerSaved<T>& saved) {
  const int64_t n = part.num_tokens(), begin = part.past, end = begin + n;
  head_norm_rope_backward<T>(config, rope, part, norms.k_norm, rows_of(saved.k, begin, end),
                             rows_of(saved.k_inv_rms, begin, end), saved.d_k.slice_rows(begin, end),
                             nullptr);
  const std::array<MatView<const T>, 3> d_qkv = {
      MatView<const T>{}, saved.d_k.slice_rows(begin, end), saved.d_v.slice_rows(begin, end)};
  const std::array<int64_t, 1> ends = {n};
  linears.weight_gradient(LinearGroup::kQkv, rows_of(saved.input_normed, 0, n), d_qkv, ends);
}

template <class T>
void normalize_inputs(const hf::Config& config, const LayerNorms<T>& norms, MatView<const T> x,
                      LayerSaved<T>& saved) {
  norm_forward(config, norms.input_layernorm, x, rows_of(saved.input_normed, 0, x.rows),
               saved.input_inv_rms.data());
}

template <class T>
void FloatLinears<T>::forward(LinearGroup group, MatView<const T> x,
                              std::span<const MatView<T>> ys) {
  const std::span<const Linear> linears = linears_of(group);
  for (size_t i = 0; i < linears.size(); ++i) {
    linalg::gemm(Trans::kNo, Trans::kYes, T(1), x, weights_.linears[linears[i]], T(0), ys[i]);
    add_bias(weights_.biases[linears[i]], ys[i]);
  }
}

template <class T>
void FloatLinears<T>::input_gradient(LinearGroup group, std::span<const MatView<const T>> d_ys,
                                     MatView<T> d_x) {
  const std::span<const Linear> linears = linears_of(group);
  for (size_t i = 0; i < linears.size(); ++i)
    linalg::gemm(Trans::kNo, Trans::kNo, T(1), d_ys[i], weights_.linears[linears[i]],
                 i == 0 ? T(0) : T(1), d_x);
}

template <class T>
void FloatLinears<T>::weight_gradient(LinearGroup group, MatView<const T> x,
                                      std::span<const MatView<const T>> d_ys,
                                      std::span<const int64_t> /*ends*/) {
  const std::span<const Linear> linears = linears_of(group);
  for (size_t i = 0; i < linears.size(); ++i)
    if (const MatView<T>& grad = grads_[linears[i]];
        grad.data != nullptr && d_ys[i].data != nullptr)
      linalg::gemm(Trans::kYes, Trans::kNo, T(1), d_ys[i], x, T(0), grad);
}

#define LAOS_INSTANTIATE(T)                                                                        \
  template struct Rope<T>;                                                                         \
  template struct LayerSaved<T>;                                                                   \
  template class FloatLinears<T>;                                                                  \
  template void add_bias<T>(std::add_const_t<T>*, MatView<T>);                                     \
  template void attention_half_forward<T>(const hf::Config&, const LayerNorms<T>&,                 \
                                          LinearsForward<T>&, const Rope<T>&, const Ragged&,       \
                                          MatView<const T>, LayerSaved<T>&, Place);                \
  template void mlp_half_forward<T>(const hf::Config&, const LayerNorms<T>&, LinearsForward<T>&,   \
                                    LayerSaved<T>&, MatView<T>, Place);                            \
  template void route_mixture<T>(const hf::Config&, const LayerNorms<T>&, LayerSaved<T>&,          \
                                 int64_t);                                                         \
  template void mlp_half_backward<T>(const hf::Config&, const LayerNorms<T>&, LinearsBackward<T>&, \
                                     const Ragged&, LayerSaved<T>&, MatView<T>, bool,              \
                                     std::add_pointer_t<T>);                                       \
  template void layer_forward<T>(const hf::Config&, const LayerNorms<T>&, LinearsForward<T>&,      \
                                 const Rope<T>&, const Ragged&, MatView<const T>, LayerSaved<T>&,  \
                                 MatView<T>, Place);                                               \
  template void layer_backward<T>(const hf::Config&, const LayerNorms<T>&, LinearsBackward<T>&,    \
                                  const Rope<T>&, const Ragged&, MatView<const T>, LayerSaved<T>&, \
                                  MatView<T>, MatView<T>, const NormGrads<T>*);                    \
  template void piece_backward<T>(const hf::Config&, const LayerNorms<T>&, LinearsBackward<T>&,    \
                                  const Rope<T>&, const Ragged&, bool, LayerSaved<T>&,             \
                                  MatView<T>);                                                     \
  template void key_value_backward<T>(const hf::Config&, const LayerNorms<T>&,                     \
                                      LinearsBackward<T>&, const Rope<T>&, const Ragged&,          \
                                      LayerSaved<T>&);                                             \
  template void normalize_inputs<T>(const hf::Config&, const LayerNorms<T>&, MatView<const T>,     \
                                    LayerSaved<T>&);
LAOS_INSTANTIATE(float)
LAOS_INSTANTIATE(double)
#undef LAOS_INSTANTIATE

}  // namespace laos::model
