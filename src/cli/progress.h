// How long work takes and how far it is, for people.
#pragma once

#include <chrono>
#include <string>

#include "pipeline/run.h"

namespace laos::cli {

// "42 s", "12 min", "3 h 05 min".
std::string duration_text(double seconds);

// One line that is rewritten on a terminal; a line a layer when piped.
class TerminalProgress : public pipeline::Progress {
 public:
  // One of the ranks of a job talks, the others keep quiet.
  explicit TerminalProgress(bool talks = true);
  void begin(const std::string& part, int64_t num_steps) override;
  void step(int64_t done, const std::string& note) override;
  void iteration(int64_t layer_idx, int64_t iteration, int64_t iters, double loss) override;
  void share(double share, int64_t layer_idx, int64_t iteration, int64_t iters,
             double loss) override;
  bool stop() override;  // once SIGINT or SIGTERM was noted, see cli/stop.h
  void finish() const;

 private:
  double elapsed() const;
  std::string left_text() const;
  void draw(const std::string& note);
  void print_line(const std::string& line) const;

  const bool talks_, is_terminal_;
  std::string part_;
  int64_t num_steps_ = 1;
  double fraction_ = 0;
  std::chrono::steady_clock::time_point start_, drawn_;
};

}  // namespace laos::cli
