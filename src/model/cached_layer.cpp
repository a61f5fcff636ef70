#include "model/cached_layer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/threads.h"
#include "linalg/kernels/dot.h"
#include "model/cache_scales.h"
#include "model/kernels/elementwise.h"

namespace laos::model {
namespace {

constexpr int64_t kRowGrain = 4;     // tokens a task of elementwise work
constexpr int64_t kQueryGrain = 16;  // queries a task of attention

// Where the tokens of a batch stand: of row i, its sequence and its position in it.
struct Places {
  std::vector<int64_t> sequence, position;

  Places(const Ragged& batch, std::span<const int64_t> sequences, const KvCache& cache) {
    for (int64_t i = 0; i < batch.num_sequences(); ++i) {
      const int64_t s = sequences[static_cast<size_t>(i)];
      LAOS_ASSERT(cache.length(s) + batch.length(i) <= cache.capacity(s));
      for (int64_t t = 0; t < batch.length(i); ++t) {
        sequence.push_back(s);
        position.push_back(cache.length(s) + t);
      }
    }
  }
};

void round_row(float* row, int64_t n, DType dtype) {
  if (dtype == DType::kF32) return;
  for (int64_t j = 0; j < n; ++j) row[j] = round_to(dtype, row[j]);
}

template <class F>
void for_rows(int64_t n, int64_t grain, const F& f) {
  parallel_for_ranges(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

void norm_rows(const hf::Config& config, const float* gain, MatView<const float> x,
               MatView<float> y, DType dtype) {
  for_rows(x.rows, kRowGrain, [&](int64_t i) {
    kernels::rms_norm(x.row(i), gain, static_cast<float>(config.rms_norm_eps), y.row(i), x.cols);
    round_row(y.row(i), y.cols, dtype);
  });
}

// target = rope(norm(x)) for every head of a token; without a gain there is no norm.
void norm_rope_heads(const hf::Config& config, const Rope<float>& rope, const float* gain,
                     int64_t position, const float* x, int64_t heads, DType dtype, float* target) {
  const int64_t hd = config.head_dim;
  for (int64_t h = 0; h < heads; ++h) {
    float* y = target + h * hd;
    if (gain != nullptr) {
      kernels::rms_norm(x + h * hd, gain, static_cast<float>(config.rms_norm_eps), y, hd);
      round_row(y, hd, dtype);
    } else {
      std::copy_n(x + h * hd, hd, y);
    }
    kernels::rope(y, rope.cos.row(position), rope.sin.row(position), false, hd / 2);
    round_row(y, hd, dtype);
  }
}

// Each query alone against the keys up to its own; heads that share keys go together.
void attend(const hf::Config& config, int64_t layer_idx, const Places& places, KvCache& cache,
            const Mat<float>& queries, DType dtype, Mat<float>& attention) {
  const int64_t n = std::ssize(places.position), hd = config.head_dim;
  const int64_t kv_heads = config.num_key_value_heads,
                group = config.num_attention_heads / kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(hd));
  const int64_t blocks = (n + kQueryGrain - 1) / kQueryGrain;
  parallel_for(blocks * kv_heads, [&](int64_t task) {
    const int64_t h = task % kv_heads, first = task / kv_heads * kQueryGrain;
    const int64_t last = std::min(n, first + kQueryGrain);
    const int64_t longest =
        *std::max_element(places.position.begin() + first, places.position.begin() + last) + 1;
    Mat<float> scores(group, longest);  // [heads that share keys, keys]
    for (int64_t i = first; i < last; ++i) {
      const int64_t s = places.sequence[static_cast<size_t>(i)],
                    visible = places.position[static_cast<size_t>(i)] + 1;
      const MatView<float> keys = cache.keys(layer_idx, s), values = cache.values(layer_idx, s);
      linalg::kernels::dot_f32(queries.row(i) + h * group * hd, hd, group, keys.data + h * hd,
                               keys.stride, visible, hd, scores.data(), longest);
      for (int64_t g = 0; g < group; ++g) {
        kernels::softmax(scores.row(g), scale, visible);
        linalg::kernels::weighted_sum(scores.row(g), values.data + h * hd, values.stride, visible,
                                      hd, attention.row(i) + (h * group + g) * hd);
        round_row(attention.row(i) + (h * group + g) * hd, hd, dtype);
      }
    }
  });
}

}  // namespace

KvCache::KvCache(const hf::Config& config, std::span<const int64_t> capacities)
    : lengths_(capacities.size(), 0) {
  for (const int64_t capacity : capacities) offsets_.push_back(offsets_.back() + capacity);
  const int64_t cols = config.num_key_value_heads * config.head_dim;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    keys_.emplace_back(offsets_.back(), cols);    // [tokens of all sequences, kv heads * head_dim]
    values_.emplace_back(offsets_.back(), cols);  // [tokens of all sequences, kv heads * head_dim]
  }
}

int64_t KvCache::values_per_token(const hf::Config& config) noexcept {
  return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
}

int64_t KvCache::bytes_per_token(const hf::Config& config) noexcept {
  return static_cast<int64_t>(sizeof(float)) * values_per_token(config);
}

void cached_layer_forward(const hf::Config& config, int64_t layer_idx,
                          const LayerNorms<float>& norms, LinearsForward<float>& linears,
                          const Rope<float>& rope, const Ragged& batch,
                          std::span<const int64_t> sequences, MatView<const float> x,
                          KvCache& cache, LayerSaved<float>& saved, MatView<float> y, DType dtype) {
  const int64_t n = batch.num_tokens();
  LAOS_ASSERT(x.rows == n && y.rows == n && saved.hidden.rows() >= n);
  LAOS_ASSERT(std::ssize(sequences) == batch.num_sequences());
  const Places places(batch, sequences, cache);
  const auto rows = [n](Mat<float>& matrix) { return matrix.view().slice_rows(0, n); };

  // Attention: hidden = x + o(attention(q, k, v))
  norm_rows(config, norms.input_layernorm, x, rows(saved.input_normed), dtype);
  // [tokens, heads * head_dim] and twice [tokens, kv heads * head_dim]
  const std::array qkv = {rows(saved.q), rows(saved.k), rows(saved.v)};
  linears.forward(LinearGroup::kQkv, rows(saved.input_normed), qkv);
  for_rows(n, kRowGrain, [&](int64_t i) {
    const int64_t s = places.sequence[static_cast<size_t>(i)],
                  position = places.position[static_cast<size_t>(i)];
    norm_rope_heads(config, rope, norms.q_norm, position, saved.q.row(i),
                    config.num_attention_heads, dtype, saved.q_rotated.row(i));
    norm_rope_heads(config, rope, norms.k_norm, position, saved.k.row(i),
                    config.num_key_value_heads, dtype, cache.keys(layer_idx, s).row(position));
    std::copy_n(saved.v.row(i), saved.v.cols(), cache.values(layer_idx, s).row(position));
    if (norms.key_scale == nullptr) return;
    round_to_cache(norms.key_scale, dtype, cache.keys(layer_idx, s).row(position), saved.k.cols());
    round_to_cache(norms.value_scale, dtype, cache.values(layer_idx, s).row(position),
                   saved.v.cols());
  });
  attend(config, layer_idx, places, cache, saved.q_rotated, dtype, saved.attention);
  const std::array o = {rows(saved.hidden)};  // [tokens, hidden_size]
  linears.forward(LinearGroup::kO, rows(saved.attention), o);
  for_rows(n, kRowGrain, [&](int64_t i) {
    kernels::add(x.row(i), saved.hidden.row(i), config.hidden_size);
    round_row(saved.hidden.row(i), config.hidden_size, dtype);
  });

  // MLP: y = hidden + down(silu(gate) * up)
  norm_rows(config, norms.post_attention_layernorm, rows(saved.hidden), rows(saved.hidden_normed),
            dtype);
  if (norms.routers.experts != nullptr) {
    mixture_forward<float>(config, norms.routers, linears, rows(saved.hidden_normed), saved.mixture,
                           y, dtype);
  } else {
    const std::array gate_up = {rows(saved.gate), rows(saved.up)};  // [tokens, intermediate_size]
    linears.forward(LinearGroup::kGateUp, rows(saved.hidden_normed), gate_up);
    for_rows(n, kRowGrain, [&](int64_t i) {
      kernels::silu_mul(saved.gate.row(i), saved.up.row(i), saved.act.row(i),
                        config.intermediate_size);
      round_row(saved.act.row(i), config.intermediate_size, dtype);
    });
    const std::array down = {y};  // [tokens, hidden_size]
    linears.forward(LinearGroup::kDown, rows(saved.act), down);
  }
  for_rows(n, kRowGrain, [&](int64_t i) {
    kernels::add(saved.hidden.row(i), y.row(i), config.hidden_size);
    round_row(y.row(i), config.hidden_size, dtype);
  });
}

}  // namespace laos::model
