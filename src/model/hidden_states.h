// The hidden states of a set of samples: one row a token, samples laid end to end.
#pragma once

#include <functional>
#include <vector>

#include "core/tensor.h"
#include "model/decoder_layer.h"

namespace laos::model {

struct HiddenStates {
  Ragged samples;
  Mat<float> rows;  // [samples.num_tokens(), hidden_size]

  MatView<float> of_sample(int64_t s) noexcept {
    return rows.view().slice_rows(samples.offsets[static_cast<size_t>(s)],
                                  samples.offsets[static_cast<size_t>(s + 1)]);
  }
  MatView<const float> of_sample(int64_t s) const noexcept {
    return rows.view().slice_rows(samples.offsets[static_cast<size_t>(s)],
                                  samples.offsets[static_cast<size_t>(s + 1)]);
  }
};

// Rows of `embed_tokens` [vocab_size, hidden_size] for the token ids of each sequence. Throws
// Error(kData) on an id outside the vocabulary.
HiddenStates embed(const TensorView& embed_tokens,
                   const std::vector<std::vector<int32_t>>& sequences);

// Sample ranges [first, last) of at most `max_tokens` tokens each (a longer sample stands alone),
// in order.
struct SampleRange {
  int64_t first;
  int64_t last;
};
std::vector<SampleRange> split_by_tokens(const Ragged& samples, int64_t max_tokens);

// Runs a layer over all samples, `max_tokens` (or the longest sample) at a time: outputs.rows =
// layer(inputs). `saved` and `rope` must be large enough for the longest piece; inputs and outputs
// may be the same object. `observe`, when not null, is called with each piece's samples and what
// forward saved.
using ObserveLayer =
    std::function<void(const SampleRange& samples, const Ragged& batch, LayerSaved<float>& saved)>;
void forward_all(const hf::Config& config, const LayerNorms<float>& norms,
                 LinearsForward<float>& linears, const Rope<float>& rope,
                 const HiddenStates& inputs, int64_t max_tokens, LayerSaved<float>& saved,
                 HiddenStates& outputs, const ObserveLayer& observe = nullptr);

// Tokens of the largest piece that forward_all will run at once.
int64_t largest_piece(const Ragged& samples, int64_t max_tokens);
// Tokens of the longest sample.
int64_t longest_sample(const Ragged& samples);

}  // namespace laos::model
