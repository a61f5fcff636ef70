#include "pipeline/time_sheet.h"

#include <algorithm>

namespace laos::pipeline {

void TimeSheet::open(const std::string& part) {
  charge();
  auto found = std::ranges::find_if(parts_, [&](const Part& known) { return known.name == part; });
  if (found == parts_.end()) found = parts_.insert(parts_.end(), Part{part, 0});
  open_.push_back(static_cast<size_t>(found - parts_.begin()));
}

void TimeSheet::close() {
  charge();
  open_.pop_back();
}

void TimeSheet::charge() {
  const double now = now_();
  if (!open_.empty()) parts_[open_.back()].seconds += now - charged_until_;
  charged_until_ = now;
}

}  // namespace laos::pipeline
