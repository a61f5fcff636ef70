#include "model/hidden_states.h"

#include <algorithm>
#include <string>

#include "core/threads.h"

namespace laos::model {

HiddenStates embed(const TensorView& embed_tokens,
                   const std::vector<std::vector<int32_t>>& sequences) {
  const int64_t vocab_size = embed_tokens.shape[0], hidden_size = embed_tokens.shape[1];
  HiddenStates states;
  for (const std::vector<int32_t>& sequence : sequences)
    states.samples.append(std::ssize(sequence));
  states.rows = Mat<float>(states.samples.num_tokens(), hidden_size);
  int64_t row = 0;
  for (const std::vector<int32_t>& sequence : sequences) {
    for (const int32_t id : sequence) {
      if (id < 0 || id >= vocab_size)
        throw Error(ErrorCode::kData,
                    {.what = "token id " + std::to_string(id) + " is outside the vocabulary of " +
                             std::to_string(vocab_size),
                     .where = "embed_tokens",
                     .fix = "use the tokenizer that belongs to the checkpoint"});
      to_f32({.name = "",
              .dtype = embed_tokens.dtype,
              .shape = {hidden_size},
              .data = embed_tokens.data + id * hidden_size * size_of(embed_tokens.dtype)},
             states.rows.row(row++));
    }
  }
  return states;
}

std::vector<SampleRange> split_by_tokens(const Ragged& samples, int64_t max_tokens) {
  std::vector<SampleRange> ranges;
  int64_t first = 0, tokens = 0;
  for (int64_t s = 0; s < samples.num_sequences(); ++s) {
    if (s > first && tokens + samples.length(s) > max_tokens) {
      ranges.push_back({first, s});
      first = s;
      tokens = 0;
    }
    tokens += samples.length(s);
  }
  if (samples.num_sequences() > first) ranges.push_back({first, samples.num_sequences()});
  return ranges;
}

int64_t largest_piece(const Ragged& samples, int64_t max_tokens) {
  int64_t largest = 0;
  for (const SampleRange& range : split_by_tokens(samples, max_tokens))
    largest = std::max(largest, samples.offsets[static_cast<size_t>(range.last)] -
                                    samples.offsets[static_cast<size_t>(range.first)]);
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
                 HiddenStates& outputs, const ObserveLayer& observe) {
  LAOS_ASSERT(outputs.rows.rows() == inputs.rows.rows());
  const bool in_place = &inputs == &outputs;
  Mat<float> y(in_place ? largest_piece(inputs.samples, max_tokens) : 0, config.hidden_size);
  for (const SampleRange& range : split_by_tokens(inputs.samples, max_tokens)) {
    Ragged batch;
    for (int64_t s = range.first; s < range.last; ++s) batch.append(inputs.samples.length(s));
    const int64_t begin = inputs.samples.offsets[static_cast<size_t>(range.first)];
    const int64_t n = batch.num_tokens();
    const MatView<const float> x = inputs.rows.view().slice_rows(begin, begin + n);
    const MatView<float> target = outputs.rows.view().slice_rows(begin, begin + n);
    layer_forward<float>(config, norms, linears, rope, batch, x, saved,
                         in_place ? y.view().slice_rows(0, n) : target);
    if (observe) observe(range, batch, saved);
    if (in_place)
      parallel_for_ranges(n, 64, [&](int64_t first, int64_t last) {
        std::copy(y.row(first), y.row(first) + (last - first) * config.hidden_size,
                  target.row(first));
      });
  }
}

}  // namespace laos::model
