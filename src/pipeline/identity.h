// What decides the bytes of a run, so that what an interrupted one finished counts only for the
// same.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "pipeline/plan.h"
#include "pipeline/run.h"
#include "save/work_directory.h"

namespace laos::pipeline {

// Kinds of parts, see save::part_name.
inline constexpr const char* kRotationPart = "rotation";
inline constexpr const char* kLayerPart = "layer";
// Hidden states that enter the layer of that index, f32 [tokens, hidden_size].
inline constexpr const char* kStatesPart = "states";

// Of the token ids, sample by sample.
std::string sha256_of(const Samples& samples);

// Key by key, what a result depends on.
using Identity = std::map<std::string, std::string>;

// The program and the instruction set.
Identity program_identity();
// Adds every file of the model directory by size, first MiB and time of change; `is_copy`: last
// MiB. Throws Error(kIo).
void add_model_files(const std::filesystem::path& directory, bool is_copy, Identity& identity);

// What decides the bytes of the parts besides the model: program, instruction set, recipe, seed,
// calibration tokens. Whatever is added to QuantOptions and changes a byte of a part belongs in
// here.
Identity plan_identity(const Plan& plan);

// The parts of `plan`, with the identity above.
save::WorkPlan work_plan(const Plan& plan);

// Adds every file of the model directory by its content, unless that is there. A file that looks as
// it did to the run whose parts are kept in save_path (size, inode and times) is not read again:
// the same bytes under another name or date are the same model. Throws Error(kIo), and
// Error(kStopped) as `progress` asks, which may be null.
void add_model_content(const Plan& plan, save::WorkPlan& work, Progress* progress);

}  // namespace laos::pipeline
