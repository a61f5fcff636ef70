// Which iteration's parameters a training run keeps (spec 8.5).
#pragma once

#include <cstdint>
#include <deque>

namespace laos::autoround {

// The published rule: the mean of the last five losses must fall below a slowly falling bar.
class BestRule {
 public:
  // Takes the loss of the next iteration; true when the parameters that gave it are the new best.
  bool accept(double loss);
  double best() const noexcept { return best_; }

 private:
  std::deque<double> window_;
  double best_ = 0;
};

// lr of iteration k of `iters`: 5 / iters, falling linearly to 0 after the last (spec 8.3).
double learning_rate(int64_t k, int64_t iters) noexcept;

}  // namespace laos::autoround
