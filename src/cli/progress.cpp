#include "cli/progress.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "cli/stop.h"
#include "core/units.h"

namespace laos::cli {

void print_warnings(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings)
    std::fprintf(stderr, "laos: warning: %s\n", warning.c_str());
}

bool stderr_is_terminal() { return isatty(STDERR_FILENO) != 0; }

bool TerminalProgress::stop() { return stop_signal() != 0; }

TerminalProgress::TerminalProgress(bool talks, std::vector<pipeline::PartCost> parts)
    : talks_(talks), is_terminal_(talks && stderr_is_terminal()), clock_(std::move(parts)) {}

void TerminalProgress::begin(const std::string& part, int64_t num_steps) {
  clock_.begin(part, num_steps);
  draw("");
}

void TerminalProgress::kept(int64_t done) {
  clock_.kept(done);
  draw("");
}

void TerminalProgress::step(int64_t done, const std::string& note) {
  clock_.step(done);
  const bool last = done == clock_.num_steps();
  // A line of its own for what stays worth reading: layers, and where a part ends. In a file, which
  // nobody draws over, also what has a note, and something now and then.
  constexpr std::chrono::seconds kSilence{10};
  const bool is_layer = clock_.part() == pipeline::kQuantizePart;
  const bool stays =
      is_terminal_ ? is_layer && !note.empty()
                   : is_layer || !note.empty() ||
                         std::chrono::steady_clock::now() - printed_ >= kSilence;
  if (!stays && !last) {
    draw(note);
    return;
  }
  std::string line =
      clock_.part() + " " + std::to_string(done) + "/" + std::to_string(clock_.num_steps());
  if (!note.empty()) line += "  " + note;
  const std::string left = left_text();
  print_line(line + "  " + rough_duration_text(clock_.part_seconds()) +
             (left.empty() ? "" : ", " + left));
}

// Drawing for every iteration would cost more than the iteration.
bool TerminalProgress::is_due(bool is_last) {
  if (!is_terminal_) return false;
  return is_last || std::chrono::steady_clock::now() - drawn_ >= std::chrono::milliseconds(100);
}

void TerminalProgress::iteration(int64_t layer_idx, int64_t iteration, int64_t iters, double loss) {
  clock_.iteration(layer_idx, iteration, iters);
  if (!is_due(iteration == iters)) return;
  char note[128];
  std::snprintf(note, sizeof note, "layer %lld/%lld  iteration %lld/%lld  loss %.5f",
                static_cast<long long>(layer_idx) + 1, static_cast<long long>(clock_.num_steps()),
                static_cast<long long>(iteration), static_cast<long long>(iters), loss);
  draw(note);
}

void TerminalProgress::share(double share, int64_t layer_idx, int64_t iteration, int64_t iters,
                             double loss) {
  clock_.share(share);
  if (!is_due(iteration == iters)) return;
  char note[128];
  std::snprintf(note, sizeof note, "here: layer %lld  iteration %lld/%lld  loss %.5f",
                static_cast<long long>(layer_idx) + 1, static_cast<long long>(iteration),
                static_cast<long long>(iters), loss);
  draw(note);
}

void TerminalProgress::finish() const {
  if (is_terminal_) std::fputs("\r\033[K", stderr);
}

std::string TerminalProgress::left_text() const {
  if (const std::optional<double> job = clock_.job_seconds_left(); job && *job > 0)
    return rough_duration_text(*job) + " left in all";
  if (const std::optional<double> part = clock_.part_seconds_left(); part && *part > 0)
    return rough_duration_text(*part) + " left";
  return "";
}

void TerminalProgress::draw(const std::string& note) {
  if (!is_terminal_) return;
  drawn_ = std::chrono::steady_clock::now();
  std::string text = note;
  if (const std::string left = left_text(); !left.empty())
    text += (note.empty() ? "" : ", ") + left;
  std::fprintf(stderr, "\r\033[K%s %3.0f %%  %s", clock_.part().c_str(), 100 * clock_.part_share(),
               text.c_str());
  std::fflush(stderr);
}

void TerminalProgress::print_line(const std::string& line) {
  printed_ = std::chrono::steady_clock::now();
  if (!talks_) return;
  std::fprintf(stderr, is_terminal_ ? "\r\033[K%s\n" : "%s\n", line.c_str());
  std::fflush(stderr);
}

}  // namespace laos::cli
