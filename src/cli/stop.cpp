#include "cli/stop.h"

#include <csignal>

namespace laos::cli {
namespace {

volatile std::sig_atomic_t noted = 0;

void note(int signal) {
  noted = signal;
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

StopOnSignals::StopOnSignals() {
  // nohup and shells' background jobs ignore SIGINT on purpose.
  if (std::signal(SIGINT, note) == SIG_IGN) std::signal(SIGINT, SIG_IGN);
  std::signal(SIGTERM, note);
}

StopOnSignals::~StopOnSignals() {
  if (std::signal(SIGINT, SIG_DFL) == SIG_IGN) std::signal(SIGINT, SIG_IGN);
  std::signal(SIGTERM, SIG_DFL);
}

int stop_signal() noexcept { return noted; }

}  // namespace laos::cli
