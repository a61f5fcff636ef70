#include "eval/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace laos::eval {

int32_t likeliest(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i]))
      throw Error(ErrorCode::kNumeric,
                  {.what = "the model's logits are not finite",
                   .where = "generation",
                   .fix = "look at the checkpoint with `laos inspect` and `laos check`"});
    if (logits[i] > logits[best]) best = i;
  }
  return static_cast<int32_t>(best);
}

Sampler::Sampler(const Sampling& options, uint32_t stream) : options_(options) {
  std::seed_seq seeds{options.seed, stream};
  generator_.seed(seeds);
}

int32_t Sampler::next(std::span<const float> logits) {
  const int32_t best = likeliest(logits);
  if (options_.temperature <= 0) return best;
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    candidates_.push_back({static_cast<int32_t>(i), logits[i]});
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  };
  const auto keep = [&](size_t count) { candidates_.resize(std::min(count, candidates_.size())); };
  // Without top-p the order of what is left does not matter, as long as it is always the same.
  if (options_.top_k > 0 && options_.top_k < std::ssize(candidates_)) {
    std::partial_sort(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(),
                      before);
    keep(static_cast<size_t>(options_.top_k));
  } else if (options_.top_p < 1) {
    std::sort(candidates_.begin(), candidates_.end(), before);
  }
  double sum = 0;
  const double largest = logits[static_cast<size_t>(best)];
  for (Candidate& c : candidates_) {
    c.weight = std::exp((c.weight - largest) / options_.temperature);
    sum += c.weight;
  }
  if (options_.top_p < 1) {
    double reached = 0;
    size_t count = 0;
    while (count < candidates_.size() && reached < options_.top_p * sum)
      reached += candidates_[count++].weight;
    keep(std::max<size_t>(count, 1));
    sum = reached;
  }
  const double drawn = static_cast<double>(generator_() >> 11) * 0x1p-53 * sum;
  double passed = 0;
  for (const Candidate& c : candidates_) {
    passed += c.weight;
    if (drawn < passed) return c.token;
  }
  return candidates_.back().token;  // the sums' last bits
}

}  // namespace laos::eval
