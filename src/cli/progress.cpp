#include "cli/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>

#include "cli/stop.h"

namespace laos::cli {

std::string duration_text(double seconds) {
  char text[48];
  if (seconds < 90)
    std::snprintf(text, sizeof text, "%.0f s", seconds);
  else if (seconds < 90 * 60)
    std::snprintf(text, sizeof text, "%.0f min", seconds / 60);
  else
    std::snprintf(text, sizeof text, "%.0f h %02.0f min", std::floor(seconds / 3600),
                  std::floor(std::fmod(seconds / 60, 60)));
  return text;
}

bool TerminalProgress::stop() { return stop_signal() != 0; }

TerminalProgress::TerminalProgress(bool talks)
    : talks_(talks), is_terminal_(talks && isatty(STDERR_FILENO) != 0) {}

void TerminalProgress::begin(const std::string& part, int64_t num_steps) {
  part_ = part;
  num_steps_ = num_steps;
  start_ = std::chrono::steady_clock::now();
  fraction_ = 0;
  draw("");
}

void TerminalProgress::step(int64_t done, const std::string& note) {
  fraction_ = static_cast<double>(done) / static_cast<double>(num_steps_);
  const bool last = done == num_steps_;
  if (note.empty() && !last) {
    draw("");
    return;
  }
  std::string line = part_ + " " + std::to_string(done) + "/" + std::to_string(num_steps_);
  if (!note.empty()) line += "  " + note;
  print_line(line + "  " + duration_text(elapsed()) + left_text());
}

void TerminalProgress::iteration(int64_t layer_idx, int64_t iteration, int64_t iters, double loss) {
  fraction_ = (static_cast<double>(layer_idx) +
               static_cast<double>(iteration) / static_cast<double>(iters)) /
              static_cast<double>(num_steps_);
  if (!is_terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - drawn_ < std::chrono::milliseconds(100) && iteration != iters) return;
  char note[128];
  const double rate = (static_cast<double>(layer_idx) * static_cast<double>(iters) +
                       static_cast<double>(iteration)) /
                      elapsed();
  std::snprintf(note, sizeof note, "layer %lld/%lld  iteration %lld/%lld  loss %.5f  %.1f it/s",
                static_cast<long long>(layer_idx) + 1, static_cast<long long>(num_steps_),
                static_cast<long long>(iteration), static_cast<long long>(iters), loss, rate);
  draw(note);
}

void TerminalProgress::share(double share, int64_t layer_idx, int64_t iteration, int64_t iters,
                             double loss) {
  fraction_ = share;
  if (!is_terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - drawn_ < std::chrono::milliseconds(100) && iteration != iters) return;
  char note[128];
  std::snprintf(note, sizeof note, "here: layer %lld  iteration %lld/%lld  loss %.5f",
                static_cast<long long>(layer_idx) + 1, static_cast<long long>(iteration),
                static_cast<long long>(iters), loss);
  draw(note);
}

void TerminalProgress::finish() const {
  if (is_terminal_) std::fputs("\r\033[K", stderr);
}

double TerminalProgress::elapsed() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

std::string TerminalProgress::left_text() const {
  if (fraction_ <= 0 || fraction_ >= 1 || elapsed() < 1) return "";
  return ", " + duration_text(elapsed() / fraction_ - elapsed()) + " left";
}

void TerminalProgress::draw(const std::string& note) {
  if (!is_terminal_) return;
  drawn_ = std::chrono::steady_clock::now();
  std::fprintf(stderr, "\r\033[K%s %3.0f %%  %s%s", part_.c_str(), 100 * fraction_, note.c_str(),
               left_text().c_str());
  std::fflush(stderr);
}

void TerminalProgress::print_line(const std::string& line) const {
  if (!talks_) return;
  std::fprintf(stderr, is_terminal_ ? "\r\033[K%s\n" : "%s\n", line.c_str());
  std::fflush(stderr);
}

}  // namespace laos::cli
