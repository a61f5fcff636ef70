// SIGINT and SIGTERM ask a run to stop where it can be gone on with.
#pragma once

namespace laos::cli {

// While it lives, the first SIGINT or SIGTERM is only noted; a second one ends the program at once.
class StopOnSignals {
 public:
  StopOnSignals();
  ~StopOnSignals();
  StopOnSignals(const StopOnSignals&) = delete;
  StopOnSignals& operator=(const StopOnSignals&) = delete;
};

// The signal that was noted; 0 when none was.
int stop_signal() noexcept;

}  // namespace laos::cli
