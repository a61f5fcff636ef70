#include "autoround/best_rule.h"

#include <numeric>

namespace laos::autoround {

bool BestRule::accept(double loss) {
  const bool first = window_.empty();
  if (first) best_ = loss;
  window_.push_back(loss);
  if (window_.size() > 5) window_.pop_front();
  const double mean =
      std::accumulate(window_.begin(), window_.end(), 0.0) / static_cast<double>(window_.size());
  if (mean < best_) {
    best_ = 0.7 * best_ + 0.3 * mean;
    return true;
  }
  return first;
}

double learning_rate(double scale, int64_t k, int64_t iters) noexcept {
  const auto n = static_cast<double>(iters);
  return scale * (n - static_cast<double>(k)) / (n * n);
}

}  // namespace laos::autoround
