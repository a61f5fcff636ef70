// AscendV1, the format of vLLM-Ascend and SGLang that docs/format.md describes: a label for each
// tensor in a description.
#pragma once

#include <string>

#include "save/job.h"

namespace laos::save {

// quant_model_description.json of a job: labels in the order of its tensors, then what holds for
// the whole checkpoint (version, model_quant_type, metadata, group_size, optional).
std::string description_json(const CheckpointJob& job);

}  // namespace laos::save
