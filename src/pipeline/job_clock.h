// How far a job is, and how long it will still take.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/division.h"

namespace laos::pipeline {

// Is told what Progress is told.
class JobClock {
 public:
  // `parts` of the whole job in order; without them only the part at work is timed. `now`: seconds
  // of a clock that never goes back.
  explicit JobClock(std::vector<PartCost> parts = {}, std::function<double()> now = steady_seconds)
      : parts_(std::move(parts)), now_(std::move(now)) {}

  void begin(const std::string& part, int64_t num_steps);
  void step(int64_t done) { reach(static_cast<double>(done) / static_cast<double>(num_steps_)); }
  void kept(int64_t done);
  void iteration(int64_t layer_idx, int64_t iteration, int64_t iters);
  void share(double share) { reach(share); }

  const std::string& part() const noexcept { return part_; }
  int64_t num_steps() const noexcept { return num_steps_; }
  double part_share() const noexcept { return share_; }
  double part_seconds() const;  // since it began
  // Expected until the part and until the job is done; nullopt while nothing can be said, and of a
  // job whose parts are not known.
  std::optional<double> part_seconds_left() const;
  std::optional<double> job_seconds_left() const;
  // Of the layer that iteration() told of last.
  std::optional<double> layer_seconds_left() const;

 private:
  static double steady_seconds();
  double since(double start) const { return now_() - start; }
  void reach(double share) { share_ = share; }
  double cost_of(const std::string& part) const;

  const std::vector<PartCost> parts_;
  const std::function<double()> now_;
  std::string part_;
  size_t reached_ = 0;  // of parts_, the one at work included; others may lie between
  int64_t num_steps_ = 1;
  double share_ = 0;       // of the part that is done
  double kept_share_ = 0;  // of it by an earlier run
  double start_ = 0, kept_until_ = 0;
  double done_cost_ = 0, done_seconds_ = 0;  // of parts whose cost is known
  int64_t layer_idx_ = -1, first_iteration_ = 0, iteration_ = 0, iters_ = 0;
  double layer_start_ = 0;
};

}  // namespace laos::pipeline
