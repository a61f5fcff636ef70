// Checkpoints as programs save them, where config.json does not say it.
#pragma once

#include "hf/config.h"
#include "io/safetensors.h"

namespace laos::model {

// Gives tensors the names that the architecture's own class gives them, which the rest of laos
// reads: without `base_model.model.` (peft), `module.` (data parallel) and `_orig_mod.` (compiled)
// before them, and with `model.` where the model was saved without its head. Throws Error(kFormat)
// when two tensors would have one name.
void use_own_names(io::TensorFiles& files, const hf::Config& config);

// Gives each expert tensors of its own where a layer has those of all in one, as transformers 5
// holds them: experts.gate_up_proj [num_experts, 2 * moe_intermediate_size, hidden_size], of each
// expert the rows of gate above those of up, and experts.down_proj [num_experts, hidden_size,
// moe_intermediate_size]. Throws Error(kShape) for others.
void split_experts(io::TensorFiles& files, const hf::Config& config);

// Whether a model that config.json calls tied was saved with a head of its own: an lm_head.weight
// of another dtype, shape or content than the embedding. transformers reads that head. Reads both
// whole where they look alike.
bool has_own_head(const io::TensorFiles& files, const hf::Config& config);

}  // namespace laos::model
