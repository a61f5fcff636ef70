// What a run leaves to read: the record of it, and the check of what it made.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "pipeline/division.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"
#include "report/run_record.h"

namespace laos::pipeline {

// Processor time of all its threads so far.
double cpu_seconds();

struct QuantizedLayer;

// What run.json says of a decoder layer that took so many seconds. `times` may be null.
report::Layer record_layer(const Plan& plan, int64_t layer_idx, const QuantizedLayer& layer,
                           double seconds, TimeSheet* times = nullptr);

// The record of a run that is done; `health` is empty. `seconds` is that of the whole run.
report::RunRecord record_of(const Plan& plan, const RunResult& result,
                            const std::string& laos_version, double seconds);

// Of the first so many windows, the first tokens are continued by so many.
inline constexpr int64_t kContinued = 2, kPromptTokens = 24, kContinuationTokens = 12;

// What a health check runs on.
struct HealthText {
  std::string source;       // the file it comes from
  bool calibrated = false;  // calibration saw it
  eval::Windows windows;
  std::vector<std::string> warnings = {};  // of the reading
  HealthSize size = {};
};
// Of a file that hf::load_dataset reads, with the tokenizer of `model`. Throws Error as that does;
// kData when no sample has two tokens.
HealthText load_health_text(const std::filesystem::path& file, const std::filesystem::path& model,
                            const std::string& chat_format = "", const HealthSize& size = {},
                            hf::Bos bos = hf::Bos::kAsModel);
// Whether a window of `text` is part of what the plan is calibrated on.
bool is_calibrated_on(const Plan& plan, const HealthText& text);
// As much as health_size says of what was held back from the plan's calibration; where nothing was,
// what it is calibrated on, or health.jsonl of its calib_directories when it is not calibrated on
// anything. Throws Error(kData) when there is none of them.
HealthText health_text(const Plan& plan);

// Checks the AscendV1 (or float) checkpoint in `directory` against the float one it was made from:
// eval::check_health on the text, with `rotation` as there, and how either goes on from its
// beginnings. Throws Error as eval::open_eval_model and eval::check_health do.
report::Health check_checkpoint(const std::filesystem::path& directory,
                                const std::filesystem::path& baseline, const HealthText& text,
                                Progress& progress, const Mat<float>* rotation = nullptr);

}  // namespace laos::pipeline
