// Sequences of different lengths side by side.
#pragma once

#include <cstdint>
#include <vector>

namespace laos::model {

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

// Pairs of a token and one that it attends to, itself included: of all sequences.
inline double causal_pairs(const Ragged& samples) {
  double pairs = 0;
  for (int64_t s = 0; s < samples.num_sequences(); ++s)
    pairs +=
        0.5 * static_cast<double>(samples.length(s)) * static_cast<double>(samples.length(s) + 1);
  return pairs;
}

}  // namespace laos::model
