// The hidden states of a set of samples: one row a token, samples laid end to end.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "core/tensor.h"
#include "io/paged_mat.h"
#include "model/decoder_layer.h"

namespace laos::model {

using TokenRows = io::PagedMat<float>;

struct HiddenStates {
  Ragged samples;
  TokenRows rows;  // [samples.num_tokens(), hidden_size]

  MatView<float> of_sample(int64_t s) noexcept {
    return rows.view().slice_rows(samples.offsets[static_cast<size_t>(s)],
                                  samples.offsets[static_cast<size_t>(s + 1)]);
  }
  MatView<const float> of_sample(int64_t s) const noexcept {
    return rows.view().slice_rows(samples.offsets[static_cast<size_t>(s)],
                                  samples.offsets[static_cast<size_t>(s + 1)]);
  }
};

// Rows of `embed_tokens` [vocab_size, hidden_size] for the token ids of each sequence, kept as
// TokenRows in `directory`. Throws Error(kData) on an id outside the vocabulary.
HiddenStates embed(const TensorView& embed_tokens,
                   const std::vector<std::vector<int32_t>>& sequences,
                   const std::filesystem::path& directory = {});

// Samples [first, last), in order, none of which shares a piece with any other range: the pieces of
// some of these ranges are the same with and without the others.
struct SampleRange {
  int64_t first;
  int64_t last;
};
std::vector<SampleRange> whole_pieces(const Ragged& samples, int64_t max_tokens);

// Runs a layer over all samples in pieces: outputs->rows = layer(inputs). `saved` must be large
// enough for largest_piece and longest_sample, `rope` for the latter; inputs and outputs may be the
// same object, and outputs null when nobody wants them. `observe`, when not null, is called with
// each piece and what forward saved.
using ObserveLayer =
    std::function<void(const Piece& piece, const Ragged& batch, LayerSaved<float>& saved)>;
void forward_all(const hf::Config& config, const LayerNorms<float>& norms,
                 LinearsForward<float>& linears, const Rope<float>& rope,
                 const HiddenStates& inputs, int64_t max_tokens, LayerSaved<float>& saved,
                 HiddenStates* outputs, const ObserveLayer& observe = nullptr);

// Tokens of the largest piece that forward_all will run at once.
int64_t largest_piece(const Ragged& samples, int64_t max_tokens);
// Tokens of the longest sample.
int64_t longest_sample(const Ragged& samples);

}  // namespace laos::model
