#include "cli/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/stop.h"
#include "core/units.h"

namespace laos::cli {
namespace {

using ProgressJson = nlohmann::ordered_json;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Absent where it is not known.
void add_known(ProgressJson& json, const char* key, const std::optional<double>& value) {
  if (value && std::isfinite(*value)) json[key] = *value;
}

std::optional<double> rate_of(int64_t done, std::chrono::steady_clock::time_point since) {
  const double seconds = seconds_since(since);
  if (done <= 0 || seconds <= 0) return std::nullopt;
  return static_cast<double>(done) / seconds;
}

}  // namespace

void add_progress_option(CLI::App& command, ProgressStyle& style) {
  command
      .add_option("--progress", style,
                  "how far the work is, on standard error: as text, as json (an object a line), or "
                  "not at all")
      ->check(CLI::IsMember({"none", "text", "json"}));
}

void print_warnings(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings)
    std::fprintf(stderr, "laos: warning: %s\n", warning.c_str());
}

bool stderr_is_terminal() { return isatty(STDERR_FILENO) != 0; }

bool TerminalProgress::stop() { return stop_signal() != 0; }

TerminalProgress::TerminalProgress(const ProgressStyle& style, bool talks,
                                   std::vector<pipeline::PartCost> parts)
    : talks_(talks && style != "none"),
      is_json_(talks && style == "json"),
      is_terminal_(talks_ && !is_json_ && stderr_is_terminal()),
      clock_(std::move(parts)) {}

void TerminalProgress::begin(const std::string& part, int64_t num_steps) {
  clock_.begin(part, num_steps);
  kept_ = 0;
  rate_layer_ = -1;
  part_began_ = std::chrono::steady_clock::now();
  if (is_json_) return print_step(0, "");
  draw("");
}

void TerminalProgress::kept(int64_t done) {
  clock_.kept(done);
  kept_ = done;
  part_began_ = std::chrono::steady_clock::now();
  if (is_json_) return print_step(done, "");
  draw("");
}

void TerminalProgress::step(int64_t done, const std::string& note) {
  clock_.step(done);
  if (is_json_) {
    if (is_due_as_json(!note.empty() || done == clock_.num_steps() ||
                       clock_.part() == pipeline::kQuantizePart))
      print_step(done, note);
    return;
  }
  const bool last = done == clock_.num_steps();
  // A line of its own for what stays worth reading: layers, and where a part ends. In a file, which
  // nobody draws over, also what has a note, and something now and then.
  constexpr std::chrono::seconds kSilence{10};
  const bool is_layer = clock_.part() == pipeline::kQuantizePart;
  const bool stays = is_terminal_ ? is_layer && !note.empty()
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

// A program reads every layer, and of what comes faster ten a second.
bool TerminalProgress::is_due_as_json(bool is_last) {
  const auto now = std::chrono::steady_clock::now();
  if (!is_last && now - drawn_ < std::chrono::milliseconds(100)) return false;
  drawn_ = now;
  return true;
}

void TerminalProgress::print_step(int64_t done, const std::string& note) {
  ProgressJson json = {{"stage", clock_.part()}, {"step", done}, {"steps", clock_.num_steps()}};
  json["share"] = clock_.part_share();
  if (!note.empty()) json["note"] = note;
  add_known(json, "rate", rate_of(done - kept_, part_began_));
  json["seconds"] = clock_.part_seconds();
  add_known(json, "stage_seconds_left", clock_.part_seconds_left());
  add_known(json, "seconds_left", clock_.job_seconds_left());
  print_line(json.dump(-1, ' ', false, ProgressJson::error_handler_t::replace));
}

void TerminalProgress::print_iteration(int64_t layer_idx, int64_t iteration, int64_t iters,
                                       double loss) {
  if (layer_idx != rate_layer_ || iteration < rate_iteration_) {
    rate_layer_ = layer_idx;
    rate_iteration_ = iteration;
    rate_began_ = std::chrono::steady_clock::now();
  }
  if (!is_due_as_json(iteration == iters)) return;
  ProgressJson json = {{"stage", clock_.part()}, {"share", clock_.part_share()},
                       {"layer", layer_idx + 1}, {"layers", clock_.num_steps()},
                       {"iteration", iteration}, {"iterations", iters}};
  add_known(json, "loss", loss);
  add_known(json, "rate", rate_of(iteration - rate_iteration_, rate_began_));
  json["seconds"] = clock_.part_seconds();
  add_known(json, "layer_seconds_left", clock_.layer_seconds_left());
  add_known(json, "stage_seconds_left", clock_.part_seconds_left());
  add_known(json, "seconds_left", clock_.job_seconds_left());
  print_line(json.dump());
}

void TerminalProgress::iteration(int64_t layer_idx, int64_t iteration, int64_t iters, double loss) {
  clock_.iteration(layer_idx, iteration, iters);
  if (is_json_) return print_iteration(layer_idx, iteration, iters, loss);
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
  if (is_json_) return print_iteration(layer_idx, iteration, iters, loss);
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
