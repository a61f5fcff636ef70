// `laos eval --tasks`: questions with known answers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/progress.h"
#include "eval/eval_model.h"
#include "hf/tokenizer.h"

namespace laos::cli {

// The set that comes with laos is asked for by this name.
inline constexpr const char* kDefaultTasks = "default";

struct TaskFlags {
  std::string tasks;
  int64_t max_new_tokens = 32;
};

// Runs the items of flags.tasks and prints accuracies, beside the baseline (may be empty) also what
// flipped. Throws Error(kShape) where the baseline's tokenizer is another.
void run_eval_tasks(const TaskFlags& flags, const std::vector<std::string>& model_paths,
                    const std::string& baseline_path, eval::Arithmetic arithmetic, hf::Bos bos,
                    bool json, const ProgressStyle& progress_style);

}  // namespace laos::cli
