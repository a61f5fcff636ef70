// SIGINT, SIGTERM and SIGHUP ask a run to stop where it can be gone on with.
#pragma once

namespace laos::cli {

// To be called before there is a second thread. those signals, where they are not ignored, go
// to a thread that waits for them, and end the program as ever unless a StopOnSignals lives.
//
// Not to a handler: products of oneDNN (its AVX and AVX-512 code of f32) let the stack pointer
// point into their work memory, where the handler's frame would overwrite the heap.
void watch_signals();

// While it lives, the first of them is only noted; one more, half a second later or
// after that, ends the program at once.
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
