// What decides the bytes of a run, so that what an interrupted one finished counts only for the
// same.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "pipeline/plan.h"
#include "save/work_directory.h"

namespace laos::pipeline {

// Kinds of parts, see save::part_name.
inline constexpr const char* kRotationPart = "rotation";
inline constexpr const char* kLayerPart = "layer";
// Hidden states that enter the layer of that index, f32 [tokens, hidden_size].
inline constexpr const char* kStatesPart = "states";

// Key by key, what a result depends on.
using Identity = std::map<std::string, std::string>;

// The program and the instruction set.
Identity program_identity();
// Adds every file of the model directory by size, first MiB and time of change; `is_copy`: last
// MiB. Throws Error(kIo).
void add_model_files(const std::filesystem::path& directory, bool is_copy, Identity& identity);

// The parts of `plan` and their identity: program, instruction set, recipe, seed, calibration
// tokens and every file of the model directory by size, time of change and first MiB. Whatever is
// added to QuantOptions and changes a byte of the result belongs in here. Throws Error(kIo).
save::WorkPlan work_plan(const Plan& plan);

}  // namespace laos::pipeline
