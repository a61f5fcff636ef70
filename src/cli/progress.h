// How far work is, for people and for programs.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <string>
#include <vector>

#include "pipeline/job_clock.h"
#include "pipeline/run.h"

namespace laos::cli {

// How progress is told: "none", "text" or "json"; empty where nothing was said.
using ProgressStyle = std::string;
void add_progress_option(CLI::App& command, ProgressStyle& style);

// On stderr. As text: one line that is rewritten on a terminal; a line a layer when piped. As JSON:
// an object a line (docs/json.md).
class TerminalProgress : public pipeline::Progress {
 public:
  // One of the ranks of a job talks, the others keep quiet. `parts`: of the whole job, whose time
  // left is then told too.
  explicit TerminalProgress(const ProgressStyle& style, bool talks = true,
                            std::vector<pipeline::PartCost> parts = {});
  ~TerminalProgress() override { finish(); }
  TerminalProgress(const TerminalProgress&) = delete;
  TerminalProgress& operator=(const TerminalProgress&) = delete;
  void begin(const std::string& part, int64_t num_steps) override;
  void step(int64_t done, const std::string& note) override;
  void kept(int64_t done) override;
  void iteration(int64_t layer_idx, int64_t iteration, int64_t iters, double loss) override;
  void share(double share, int64_t layer_idx, int64_t iteration, int64_t iters,
             double loss) override;
  bool stop() override;  // once a signal was noted, see cli/stop.h
  void finish() const;

 private:
  bool is_due(bool is_last);
  bool is_due_as_json(bool is_last);
  std::string left_text() const;
  void draw(const std::string& note);
  void print_line(const std::string& line);
  void print_step(int64_t done, const std::string& note);
  void print_iteration(int64_t layer_idx, int64_t iteration, int64_t iters, double loss);

  const bool talks_, is_json_, is_terminal_;
  pipeline::JobClock clock_;
  std::chrono::steady_clock::time_point drawn_, printed_ = std::chrono::steady_clock::now();
  // What rates are taken from: steps since the part began, iterations since the layer did.
  int64_t kept_ = 0, rate_layer_ = -1, rate_iteration_ = 0;
  std::chrono::steady_clock::time_point part_began_, rate_began_;
};

// On stderr, a line each.
void print_warnings(const std::vector<std::string>& warnings);
// Whether a person looks at what goes to stderr.
bool stderr_is_terminal();

}  // namespace laos::cli
