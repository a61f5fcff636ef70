// A decoder layer run a few tokens at a time, with the keys and values of those before them kept.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "model/decoder_layer.h"

namespace laos::model {

// Keys (after norm and rotation) and values of every layer, for sequences that grow.
class KvCache {
 public:
  // Room for capacities[s] tokens of sequence s. Pages that are never reached cost nothing.
  KvCache(const hf::Config& config, std::span<const int64_t> capacities);
  static int64_t bytes_per_token(const hf::Config& config) noexcept;
  // Keys and values of all layers.
  static int64_t values_per_token(const hf::Config& config) noexcept;

  int64_t num_sequences() const noexcept { return std::ssize(lengths_); }
  int64_t length(int64_t s) const noexcept { return lengths_[static_cast<size_t>(s)]; }
  int64_t capacity(int64_t s) const noexcept {
    return offsets_[static_cast<size_t>(s + 1)] - offsets_[static_cast<size_t>(s)];
  }
  // After all layers have taken `count` further tokens of sequence s.
  void extend(int64_t s, int64_t count) noexcept { lengths_[static_cast<size_t>(s)] += count; }
  // Forgets the tokens of sequence s.
  void clear(int64_t s) noexcept { lengths_[static_cast<size_t>(s)] = 0; }

  // [capacity(s), num_key_value_heads * head_dim] of a layer.
  MatView<float> keys(int64_t layer_idx, int64_t s) noexcept { return rows(keys_, layer_idx, s); }
  MatView<float> values(int64_t layer_idx, int64_t s) noexcept {
    return rows(values_, layer_idx, s);
  }

 private:
  MatView<float> rows(std::vector<Mat<float>>& of, int64_t layer_idx, int64_t s) noexcept {
    return of[static_cast<size_t>(layer_idx)].view().slice_rows(
        offsets_[static_cast<size_t>(s)], offsets_[static_cast<size_t>(s + 1)]);
  }

  std::vector<Mat<float>> keys_, values_;  // one a layer, sequences laid end to end
  std::vector<int64_t> offsets_ = {0}, lengths_;
};

// y [n, hidden_size] = layer(x [n, hidden_size]) for the next tokens of some sequences: those of
// sequences[i] of the cache are rows [batch.offsets[i], batch.offsets[i + 1]) and stand behind the
// cache.length of them that it holds. Their keys and values are written to the cache, which is not
// extended. If the linears treat rows independently, so does this: a token's output does not
// depend, bit for bit, on how many tokens run at a time or in which company. Where
// `dtype` is not kF32, what each operation but the linears gives is rounded to it. `saved` is
// scratch. y must not overlap x.
void cached_layer_forward(const hf::Config& config, int64_t layer_idx,
                          const LayerNorms<float>& norms, LinearsForward<float>& linears,
                          const Rope<float>& rope, const Ragged& batch,
                          std::span<const int64_t> sequences, MatView<const float> x,
                          KvCache& cache, LayerSaved<float>& saved, MatView<float> y,
                          DType dtype = DType::kF32);

}  // namespace laos::model
