#include "cli/stop.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <system_error>
#include <thread>

namespace laos::cli {
namespace {

std::atomic<int> noted{0};
std::atomic<bool> is_noting{false};

// timeout(1) and batch systems send a signal to the process and to its group: that is one wish.
constexpr std::chrono::milliseconds kOneWish{500};

[[noreturn]] void watch(sigset_t signals) {
  std::chrono::steady_clock::time_point first;
  for (;;) {
    int signal = 0;
    if (::sigwait(&signals, &signal) != 0) continue;
    int none = 0;
    if (is_noting && noted.compare_exchange_strong(none, signal)) {
      first = std::chrono::steady_clock::now();
      continue;
    }
    if (is_noting && std::chrono::steady_clock::now() - first < kOneWish) continue;
    // What it would have done unwatched: it ends the program.
    ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
    ::pthread_kill(::pthread_self(), signal);
  }
}

}  // namespace

void watch_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action = {};
    // nohup ignores SIGHUP, shells' background jobs SIGINT, on purpose.
    if (::sigaction(signal, nullptr, &action) == 0 && action.sa_handler != SIG_IGN)
      sigaddset(&signals, signal);
  }
  // Threads inherit what is blocked, so this one alone is ever given them.
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  try {
    std::thread(watch, signals).detach();
  } catch (const std::system_error&) {
    ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);  // no thread to be had: they end the program
  }
}

StopOnSignals::StopOnSignals() { is_noting = true; }

StopOnSignals::~StopOnSignals() { is_noting = false; }

int stop_signal() noexcept { return noted; }

}  // namespace laos::cli
