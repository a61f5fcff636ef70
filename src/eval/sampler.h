// The choice of a next token from logits.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace laos::eval {

struct Sampling {
  double temperature = 0;  // 0: always the likeliest token; else logits are divided by it
  int64_t top_k = 0;       // only the k likeliest tokens; 0: all
  double top_p = 1;        // of those, the fewest likeliest whose probabilities reach top_p
  uint32_t seed = 0;
};

// The index of the largest of `logits` (of equal ones the first). Throws Error(kNumeric) when one
// is not finite.
int32_t likeliest(std::span<const float> logits);

// Draws the tokens of one sequence. The same options, stream and logits give the same tokens.
class Sampler {
 public:
  // Sequences of different `stream` draw independently.
  Sampler(const Sampling& options, uint32_t stream);
  // Throws Error(kNumeric) when a logit is not finite.
  int32_t next(std::span<const float> logits);

 private:
  struct Candidate {
    int32_t token;
    double weight;  // its logit, then exp(logit - largest)
  };

  Sampling options_;
  std::mt19937_64 generator_;
  std::vector<Candidate> candidates_;
};

}  // namespace laos::eval
