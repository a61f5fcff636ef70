// How far work is, for people.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "pipeline/job_clock.h"
#include "pipeline/run.h"

namespace laos::cli {

// One line that is rewritten on a terminal; a line a layer when piped.
class TerminalProgress : public pipeline::Progress {
 public:
  // One of the ranks of a job talks, the others keep quiet. `parts`: of the whole job, whose time
  // left is then told too.
  explicit TerminalProgress(bool talks = true, std::vector<pipeline::PartCost> parts = {});
  ~TerminalProgress() override { finish(); }
  TerminalProgress(const TerminalProgress&) = delete;
  TerminalProgress& operator=(const TerminalProgress&) = delete;
  void begin(const std::string& part, int64_t num_steps) override;
  void step(int64_t done, const std::string& note) override;
  void kept(int64_t done) override;
  void iteration(int64_t layer_idx, int64_t iteration, int64_t iters, double loss) override;
  void share(double share, int64_t layer_idx, int64_t iteration, int64_t iters,
             double loss) override;
  bool stop() override;  // once SIGINT or SIGTERM was noted, see cli/stop.h
  void finish() const;

 private:
  bool is_due(bool is_last);
  std::string left_text() const;
  void draw(const std::string& note);
  void print_line(const std::string& line);

  const bool talks_, is_terminal_;
  pipeline::JobClock clock_;
  std::chrono::steady_clock::time_point drawn_, printed_ = std::chrono::steady_clock::now();
};

// On stderr, a line each.
void print_warnings(const std::vector<std::string>& warnings);
// Whether a person looks at what goes to stderr.
bool stderr_is_terminal();

}  // namespace laos::cli
