// Where the time of a run goes.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/stopwatch.h"

namespace laos::pipeline {

// Parts of the work besides what steps do under their own names. What is not in any is the rest.
inline constexpr const char* kCheckWeightsTime = "check weights";
inline constexpr const char* kFitPassTime = "fit: float pass";
inline constexpr const char* kFitTime = "fit: steps";
inline constexpr const char* kEmbedTime = "embed";
inline constexpr const char* kReadTime = "read weights";
inline constexpr const char* kRotateTime = "rotate";
inline constexpr const char* kPassTime = "float pass";
inline constexpr const char* kStatisticsTime = "statistics";
inline constexpr const char* kWriteTime = "write layers";
inline constexpr const char* kKeepTime = "keep states";
inline constexpr const char* kHeadTime = "embedding and head";
inline constexpr const char* kCommitTime = "finish files";
// What a step of that type makes of what linears read; all else it does has the type's own name.
inline std::string inputs_time(const std::string& step_type) { return step_type + ": inputs"; }

// A moment belongs to the part that was opened last and is still open. One thread opens parts.
class TimeSheet {
 public:
  struct Part {
    std::string name;
    double seconds = 0;
  };

  TimeSheet() : TimeSheet([watch = Stopwatch()] { return watch.seconds(); }) {}
  // `now`: seconds of a clock that never goes back.
  explicit TimeSheet(std::function<double()> now) : now_(std::move(now)) {}

  // The part is open until this ends. `sheet` may be null.
  class Span {
   public:
    Span(TimeSheet* sheet, const std::string& part) : sheet_(sheet) {
      if (sheet_ != nullptr) sheet_->open(part);
    }
    ~Span() {
      if (sheet_ != nullptr) sheet_->close();
    }
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;

   private:
    TimeSheet* sheet_;
  };

  // In the order in which they were opened first, without what one that is open takes just now.
  const std::vector<Part>& parts() const noexcept { return parts_; }

 private:
  void open(const std::string& part);
  void close();
  void charge();

  const std::function<double()> now_;
  std::vector<Part> parts_;
  std::vector<size_t> open_;  // indices of parts_, the innermost last
  double charged_until_ = 0;
};

}  // namespace laos::pipeline
