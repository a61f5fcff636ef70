#include "pipeline/job_clock.h"

#include <algorithm>
#include <chrono>

namespace laos::pipeline {

double JobClock::steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double JobClock::cost_of(const std::string& part) const {
  for (const PartCost& known : parts_)
    if (known.name == part) return known.cost;
  return 0;
}

void JobClock::begin(const std::string& part, int64_t num_steps) {
  if (!part_.empty() && cost_of(part_) > 0) {
    done_cost_ += cost_of(part_) * (1 - kept_share_);
    done_seconds_ += since(kept_until_);
  }
  part_ = part;
  for (size_t i = 0; i < parts_.size(); ++i)
    if (parts_[i].name == part) reached_ = i + 1;
  num_steps_ = std::max<int64_t>(1, num_steps);
  share_ = kept_share_ = 0;
  start_ = kept_until_ = now_();
  layer_idx_ = -1;
}

void JobClock::kept(int64_t done) {
  share_ = kept_share_ = static_cast<double>(done) / static_cast<double>(num_steps_);
  kept_until_ = now_();
}

void JobClock::iteration(int64_t layer_idx, int64_t iteration, int64_t iters) {
  if (layer_idx != layer_idx_ || iteration < iteration_) {
    layer_idx_ = layer_idx;
    first_iteration_ = iteration;
    layer_start_ = now_();
  }
  iteration_ = iteration;
  iters_ = iters;
  reach((static_cast<double>(layer_idx) +
         static_cast<double>(iteration) / static_cast<double>(std::max<int64_t>(1, iters))) /
        static_cast<double>(num_steps_));
}

double JobClock::part_seconds() const { return since(start_); }

std::optional<double> JobClock::part_seconds_left() const {
  const double seconds = since(kept_until_), done = share_ - kept_share_;
  if (share_ >= 1) return 0;
  if (done <= 0 || seconds < 1) return std::nullopt;
  return seconds / done * (1 - share_);
}

std::optional<double> JobClock::job_seconds_left() const {
  if (parts_.empty() || part_.empty()) return std::nullopt;
  const double cost = cost_of(part_), now = since(kept_until_),
               done = cost * std::max(0.0, share_ - kept_share_);
  double later = 0;
  for (size_t i = reached_; i < parts_.size(); ++i) later += parts_[i].cost;
  const double seconds = done_seconds_ + (done > 0 ? now : 0), known = done_cost_ + done;
  if (known <= 0 || seconds < 1) return std::nullopt;
  const double rate = seconds / known;
  const std::optional<double> here = part_seconds_left();
  return here.value_or(cost * (1 - share_) * rate) + later * rate;
}

std::optional<double> JobClock::layer_seconds_left() const {
  const int64_t done = iteration_ - first_iteration_;
  if (layer_idx_ < 0 || done <= 0) return std::nullopt;
  return since(layer_start_) / static_cast<double>(done) * static_cast<double>(iters_ - iteration_);
}

}  // namespace laos::pipeline
