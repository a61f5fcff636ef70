// What decides the bytes of a run, so that what an interrupted one finished counts only for the
// same.
#pragma once

#include "pipeline/plan.h"
#include "save/work_directory.h"

namespace laos::pipeline {

// Kinds of parts, see save::part_name.
inline constexpr const char* kRotationPart = "rotation";
inline constexpr const char* kLayerPart = "layer";
// Hidden states that enter the layer of that index, f32 [tokens, hidden_size].
inline constexpr const char* kStatesPart = "states";

// The parts of `plan` and their identity: program, instruction set, recipe, seed, calibration
// tokens and every file of the model directory by size, time of change and first MiB. Whatever is
// added to QuantOptions and changes a byte of the result belongs in here. Throws Error(kIo).
save::WorkPlan work_plan(const Plan& plan);

}  // namespace laos::pipeline
