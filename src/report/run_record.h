// What a run did and what came of it, as run.json holds it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "autoround/train_layer.h"
#include "eval/health.h"
#include "rotation/fit.h"

namespace laos::report {

inline constexpr const char* kRunFile = "run.json";
inline constexpr const char* kPageFile = "report.html";
// The same of a later check: the run's record, where there is one, with that check's health.
inline constexpr const char* kCheckFile = "check.json";
inline constexpr const char* kCheckPageFile = "check.html";

struct Environment {
  std::string cpu;              // as the system names it
  std::string instruction_set;  // that the kernels use: "AVX3_SPR", "scalar", ...
  std::string system;           // "Linux 6.1.0 x86_64"
  int64_t threads = 0;
  int64_t memory_bytes = 0;
};

struct Model {
  std::string directory, type, dtype;
  int64_t num_layers = 0, hidden_size = 0, intermediate_size = 0, vocab_size = 0;
};

struct Recipe {
  std::string config_id, path;
  std::string text;     // anchors expanded
  std::string dataset;  // calibrated on; "" when nothing was
  int64_t num_samples = 0, num_tokens = 0;
  int64_t seed = 0;
  double flops = 0;  // that the plan counts; 0: not known
};

// A linear of a decoder layer.
struct Linear {
  std::string name;            // "model.layers.3.mlp.up_proj"
  std::string label;           // "W4A4_DYNAMIC", ..., "FLOAT"
  std::string decided_by;      // place in the recipe
  std::string transform = "";  // in front of it while it runs, and the errors that chose it
  int64_t parameters = 0;
  int64_t weight_bits = 16, act_bits = 16;
  double refit_share = 0, refit_damp = 0;  // 0: not refitted
  // NaN where the linear stays float.
  double weight_error = 0;  // ‖W - Ŵ‖ / ‖W‖, of the weight as it was before it was quantized
  double clipped = 0;       // share of weights outside the range of their codes
  double range = 0;  // mean over scales of scale / the scale that clips nothing; below 1: shrunk
};

struct Layer {
  double seconds = 0;          // quantizing and writing it
  int64_t peak_rss_bytes = 0;  // of the process, until then
  std::vector<Linear> linears;
  std::vector<autoround::LayerReport> training;  // of each autoround_quant, in turn
  // Σ (x - x̂)² / Σ x² of cached keys and values over the calibration tokens; NaN where the cache
  // holds floats.
  double key_error = std::numeric_limits<double>::quiet_NaN();
  double value_error = std::numeric_limits<double>::quiet_NaN();
  // Calibration tokens of each routed expert that was solved for; those with fewer than the second
  // were given average ones in addition. Empty and 0 where none was.
  std::vector<int64_t> expert_tokens = {};
  int64_t enough_expert_tokens = 0;
};

// What a process of a job of several did.
struct Rank {
  std::string host;
  int64_t threads = 0;
  int64_t layers = 0;        // that it made
  double seconds = 0;        // from the start until all layers were finished
  double pass_seconds = 0;   // of them, carrying its share of the samples through the float layers
  double layer_seconds = 0;  // of them, making layers
  double wait_seconds = 0;   // of them, waiting for other ranks and their bytes
  double cpu_seconds = 0;    // processor time of all threads
  int64_t sent_bytes = 0, received_bytes = 0;
  int64_t peak_rss_bytes = 0;
};

struct Fit {
  int64_t best_step = 0;
  double orthogonality = 0;
  std::vector<int64_t> steps;  // where the loss was taken; 0 is the plain Hadamard matrix
  std::vector<double> losses;  // of the same size
};

// Where the time of the first process went; no moment is in two of them.
struct TimedPart {
  std::string name;
  double seconds = 0;
  // Operations of matrix products that the plan counts for it, and of what type their operands are;
  // 0: none, or an earlier run did some of them.
  double flops = 0;
  std::string dtype;
};

// Seconds of the parts of a run.
struct Timings {
  double total = 0, fit = 0, layers = 0, save = 0, health = 0;
  std::vector<TimedPart> parts = {};
};

struct Health {
  std::string source;         // the text it ran on
  std::string tokens_sha256;  // of its tokens; "" in older records
  bool calibrated = false;    // the run was calibrated on that text
  eval::Health figures;
};

// The verdict in words, which say where the text flatters: "good, on text that it was calibrated
// on".
std::string verdict_text(const Health& health);

struct RunRecord {
  int64_t format = 1;
  std::string laos_version;
  std::vector<std::string> libraries;  // "oneDNN 2.6.3", ...
  Environment environment;
  Model model;
  Recipe recipe;
  std::vector<std::string> warnings;
  std::vector<Fit> fits;
  std::vector<Layer> layers;
  std::vector<Rank> ranks;  // empty when one process did it all
  Timings timings;
  int64_t peak_rss_bytes = 0, checkpoint_bytes = 0;
  std::optional<Health> health;
};

// Numbers have 7 digits; what is not finite is null, and null is read as NaN. What is not UTF-8 is
// written with replacement characters.
std::string to_json(const RunRecord& record);
std::string to_json(const Layer& layer);
std::string to_json(const Rank& rank);
std::string to_json(const Health& health);
// The inverse; absent keys keep their defaults and unknown ones are passed over, so that other
// versions' records can be read. Throws Error(kFormat) naming `name`: not JSON, wrong types,
// another format.
RunRecord run_record_from_json(const std::string& text, const std::string& name);
Layer layer_from_json(const std::string& text, const std::string& name);
Rank rank_from_json(const std::string& text, const std::string& name);

// Writes run.json and report.html (of to_html, with `others`) into `directory`; each appears whole.
// Throws Error(kIo), Error(kResource).
void write_run(const std::filesystem::path& directory, const RunRecord& record,
               const std::vector<RunRecord>& others = {});
// Writes check.json and check.html into `directory`, and changes nothing else there. Throws as
// write_run, and as read_run where there is a run.json.
void write_check(const std::filesystem::path& directory, const Health& health);
// Reads directory/run.json. Throws Error(kIo), Error(kFormat).
RunRecord read_run(const std::filesystem::path& directory);

}  // namespace laos::report
