// What a checkpoint consists of, before anything of it is written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "hf/config.h"
#include "hf/model_tensors.h"
#include "io/safetensors.h"
#include "quant/scheme.h"
#include "save/options.h"
#include "save/work_directory.h"

namespace laos::save {

// A linear of a decoder layer and what it is written as; no scheme = FLOAT.
struct OutputLinear {
  std::string name;  // "model.layers.3.mlp.up_proj"
  int64_t out_features = 0;
  int64_t in_features = 0;
  std::optional<quant::LinearScheme> scheme;
  bool has_bias = false;
};

// One tensor of the checkpoint.
struct OutputTensor {
  io::TensorSpec spec;
  std::string label;  // of its scheme, FLOAT for what is not quantized; "" = described nowhere
  std::string linear = "";  // the quantized linear whose label this is, if any
  int64_t group_size = 0;   // of its weight: inputs that share a scale, 0 = all
  int64_t layer_idx = -1;   // of its decoder layer, -1 outside of them
  // The kind of its module.
  hf::WeightModule::Kind kind = hf::WeightModule::Kind::kLinear;
};

// The online rotations a checkpoint carries, which the engine applies while the model runs: of the
// heads that o_proj reads, in every layer, and of what down_proj reads, intermediate_size = m * n,
// in some layers.
struct OnlineLayout {
  int64_t max_tp_size = 1;
  int64_t m = 0;
  int64_t n = 0;
  std::vector<int64_t> down_layers;
};

using SchemeLookup =
    std::function<std::optional<quant::LinearScheme>(const std::string& linear_name)>;

// Everything a checkpoint is written from.
struct CheckpointJob {
  std::filesystem::path save_path;  // created if missing
  std::filesystem::path
      model_directory;               // tokenizer, config.json and the like are copied from here
  DType float_dtype = DType::kBF16;  // of the tensors that stay float
  std::vector<OutputTensor> tensors;
  int64_t max_shard_bytes = 0;                        // see max_shard_bytes()
  std::string model_type;                             // names {model_type}_best_practice.yaml
  std::string recipe_yaml;                            // its content
  std::optional<OnlineLayout> online = std::nullopt;  // described by AscendV1 under metadata.quarot
  int64_t global_rotation = 0;  // rows of the matrix in optional/quarot.safetensors; 0 = none
  WorkPlan work = {};           // see CheckpointWriter::begin_layer
  const Format* format = &ascendv1_format();
  // The same weights in other formats, each in a directory of its own; their `work` and `others`
  // are not looked at.
  std::vector<CheckpointJob> others = {};
  // Where finished parts are kept until all directories are whole: save_path, or one above those
  // of several.
  std::filesystem::path work_path = {};  // empty: save_path
};

// The job and its others.
std::vector<const CheckpointJob*> all_jobs(const CheckpointJob& job);

// The linears of every decoder layer in save order.
std::vector<OutputLinear> output_linears(const hf::Config& config, const SchemeLookup& scheme_of);

// Every tensor of the checkpoint in save order: each linear as the format has it, everything else
// (float linears with their biases, norms, embed_tokens, lm_head also when the model ties it) as
// `float_dtype` labelled FLOAT, and in F32 the matrices of `online` unless it is null, and scales
// and offsets of every layer's cache where it is `cached_in_int8`. Throws
// Error(kUnsupported), all linears at once, for schemes that the format does not hold, sizes
// that do not pack, and online rotations and scales that it has no place for.
std::vector<OutputTensor> output_tensors(const hf::Config& config, DType float_dtype,
                                         const SchemeLookup& scheme_of,
                                         const OnlineLayout* online = nullptr,
                                         const Format& format = ascendv1_format(),
                                         bool cached_in_int8 = false);

// Linears that engines fuse into one, and that must share a label for it, but do not.
struct FusedConflict {
  std::string layer;                 // "model.layers.3"
  // Their names in it, "mlp.gate_proj", "mlp.up_proj"; of many those that hf::differing names.
  std::vector<std::string> members;
  std::vector<std::string> labels;  // of each; "none" for one that is not among the linears
};
// Those of hf::fused_groups that no engine would load, in order. An engine runs such a group as one
// linear, and one linear has one label.
std::vector<FusedConflict> find_fused_conflicts(const hf::Config& config,
                                                const std::vector<OutputLinear>& linears);

// Bytes a shard may hold at most, 0 for one file. part_file_size is clamped to what fits.
int64_t max_shard_bytes(const SaverOptions& options);

}  // namespace laos::save
