#include "model/hidden_states.h"

#include <algorithm>
#include <string>

#include "core/threads.h"

namespace laos::model {

HiddenStates embed(const TensorView& embed_tokens,
                   const std::vector<std::vector<int32_t>>& sequences,
                   const std::filesystem::path& directory) {
  const int64_t vocab_size = embed_tokens.shape[0], hidden_size = embed_tokens.shape[1];
  HiddenStates states;
  for (const std::vector<int32_t>& sequence : sequences)
    states.samples.append(std::ssize(sequence));
  states.rows =
      TokenRows(states.samples.num_tokens(), hidden_size, directory);  // [tokens, hidden_size]
  int64_t row = 0;
  for (const std::vector<int32_t>& sequence : sequences) {
    const int64_t begin = row;
    for (const int32_t id : sequence) {
      if (id < 0 || id >= vocab_size)
        throw Error(ErrorCode::kData,
                    {.what = "token id " + std::to_string(id) + " is outside the vocabulary of " +
                             std::to_string(vocab_size),
                     .where = "the embedding",
                     .fix = "use the tokenizer that belongs to the checkpoint"});
      to_f32({.name = "",
              .dtype = embed_tokens.dtype,
              .shape = {hidden_size},
              .data = embed_tokens.data + id * hidden_size * size_of(embed_tokens.dtype)},
             states.rows.row(row++));
    }
    states.rows.drop(begin, row);
  }
  return states;
}

std::vector<SampleRange> whole_pieces(const Ragged& samples, int64_t max_tokens) {
  std::vector<SampleRange> ranges;
  for (const Piece& piece : pieces_of(samples, max_tokens))
    if (piece.batch.past == 0) ranges.push_back({piece.first, piece.last});
  return ranges;
}

int64_t largest_piece(const Ragged& samples, int64_t max_tokens) {
  int64_t largest = 0;
  for (const Piece& piece : pieces_of(samples, max_tokens))
    largest = std::max(largest, piece.batch.num_tokens());
  return largest;
}

int64_t longest_sample(const Ragged& samples) {
  int64_t longest = 0;
  for (int64_t s = 0; s < samples.num_sequences(); ++s)
    longest = std::max(longest, samples.length(s));
  return longest;
}

void forward_all(const hf::Config& config, const LayerNorms<float>& norms,
                 LinearsForward<float>& linears, const Rope<float>& rope,
                 const HiddenStates& inputs, int64_t max_tokens, LayerSaved<float>& saved,
                 HiddenStates* outputs, const ObserveLayer& observe) {
  LAOS_ASSERT(outputs == nullptr || outputs->rows.rows() == inputs.rows.rows());
  const bool in_place = &inputs == outputs;
  const bool straight = outputs != nullptr && !in_place;
  // [tokens of a piece, hidden_size]
  // [piece, hidden_size]
  Mat<float> y(straight ? 0 : largest_piece(inputs.samples, max_tokens), config.hidden_size);
  for (const Piece& piece : pieces_of(inputs.samples, max_tokens)) {
    const int64_t begin = piece.begin, n = piece.batch.num_tokens();
    const MatView<const float> x = std::as_const(inputs.rows).view().slice_rows(begin, begin + n);
    const MatView<float> target =
        outputs == nullptr ? MatView<float>{} : outputs->rows.view().slice_rows(begin, begin + n);
    layer_forward<float>(config, norms, linears, rope, piece.batch, x, saved,
                         straight ? target : y.view().slice_rows(0, n));
    if (observe) observe(piece, piece.batch, saved);
    if (in_place)
      parallel_for_ranges(n, 64, [&](int64_t first, int64_t last) {
        std::copy(y.row(first), y.row(first) + (last - first) * config.hidden_size,
                  target.row(first));
      });
    inputs.rows.drop(begin, begin + n);
    if (outputs != nullptr) outputs->rows.drop(begin, begin + n);
  }
}

}  // namespace laos::model
