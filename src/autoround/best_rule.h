// Which iteration's parameters a training run keeps, and how fast it learns.
#pragma once

#include <cstdint>
#include <deque>

namespace laos::autoround {

// The published rule: the mean of the last five losses must fall below a bar. The bar begins at the
// first loss; whenever a mean is below it, it becomes 0.7 bar + 0.3 mean.
class BestRule {
 public:
  // Takes the loss of the next iteration; true when the parameters that gave it are the new best.
  bool accept(double loss);
  double best() const noexcept { return best_; }

 private:
  std::deque<double> window_;
  double best_ = 0;
};

// lr of iteration k of `iters`: scale / iters, falling linearly to 0 after the last, so that all of
// them together move by half of `scale` at most.
double learning_rate(double scale, int64_t k, int64_t iters) noexcept;

}  // namespace laos::autoround
