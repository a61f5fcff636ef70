// Writing AscendV1 checkpoints, the format of vLLM-Ascend that docs/format.md describes: plan every
// tensor, then stream them in any order.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/tensor.h"
#include "hf/config.h"
#include "io/safetensors.h"
#include "quant/int_weight.h"
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
};

// One tensor of the checkpoint and its label in the description; "" = the description has no entry.
struct OutputTensor {
  io::TensorSpec spec;
  std::string label;
};

// The online rotations a checkpoint carries, which the engine applies while the model runs: of the
// heads that o_proj reads, in every layer, and of what down_proj reads, intermediate_size = m * n,
// in some layers.
struct OnlineLayout {
  int64_t max_tp_size = 1;
  int64_t m = 0;
  int64_t n = 0;
  std::vector<int64_t> down_proj_layers;
};

using SchemeLookup =
    std::function<std::optional<quant::LinearScheme>(const std::string& linear_name)>;

// The linears of every decoder layer in save order.
std::vector<OutputLinear> output_linears(const hf::Config& config, const SchemeLookup& scheme_of);

// Every tensor of the checkpoint in save order: each linear as its label has it, everything else
// (norms, embed_tokens, lm_head also when the model ties it) as `float_dtype` labelled FLOAT, and
// the matrices of `online` unless it is null, in F32. Throws Error(kUnsupported), all linears at
// once, for schemes without a label and W4A8_DYNAMIC with an odd out_features.
std::vector<OutputTensor> output_tensors(const hf::Config& config, DType float_dtype,
                                         const SchemeLookup& scheme_of,
                                         const OnlineLayout* online = nullptr);

// Linears that engines fuse into one, and that must share a label for it, but do not.
struct FusedConflict {
  std::string layer;                 // "model.layers.3"
  std::vector<std::string> members;  // their names in it: "mlp.gate_proj", "mlp.up_proj"
  std::vector<std::string> labels;   // of each; "none" for one that is not among the linears
};
// Those of q, k, v and of gate, up that no engine would load, in order. An engine runs such a group
// as one linear, and one linear has one label.
std::vector<FusedConflict> find_fused_conflicts(const hf::Config& config,
                                                const std::vector<OutputLinear>& linears);

// Bytes a shard may hold at most, 0 for one file. part_file_size is clamped to what fits.
int64_t max_shard_bytes(const AscendV1Options& options);

// Everything a checkpoint is written from.
struct AscendV1Job {
  std::filesystem::path save_path;  // created if missing
  std::filesystem::path
      model_directory;  // tokenizer, config.json and the like are copied from here
  std::vector<OutputTensor> tensors;
  int64_t max_shard_bytes = 0;                        // see max_shard_bytes()
  std::string model_type;                             // names {model_type}_best_practice.yaml
  std::string recipe_yaml;                            // its content
  std::optional<OnlineLayout> online = std::nullopt;  // described under metadata.quarot
  int64_t global_rotation = 0;  // rows of the matrix in optional/quarot.safetensors; 0 = none
  WorkPlan work = {};           // see AscendV1Writer::begin_layer
};

// Bytes on disk of all files that the job writes.
int64_t planned_bytes(const AscendV1Job& job);
// Bytes on disk of the finished layers that are kept beside them until the end.
int64_t planned_work_bytes(const AscendV1Job& job);

// Holds a job's paths against the disk without creating anything; for use before any heavy work.
// Throws Error: kUsage when save_path is empty, not a directory, the model directory or inside it,
// holds weights that are not AscendV1's (an engine would load them too) or directories in place of
// files, or when model_type is no file name; kIo when save_path, or its nearest existing parent, is
// not writable or a file to copy is not in the model directory; kResource when the disk has less
// than `bytes_needed` free, what an earlier run left there counted as free; and as check_work.
void check_output_path(const AscendV1Job& job, int64_t bytes_needed);

// Writes one checkpoint. Until commit() all data is in save_path/.laos-partial and an older
// checkpoint in save_path stays whole. Destroyed without commit(), it keeps the finished parts of
// work() and finish_layer(), for the next run of the same job; without any, everything it created
// is removed, save_path included. One thread at a time.
class AscendV1Writer {
 public:
  // check_output_path, then takes what an earlier run of the same job.work finished and reserves
  // the disk space of all weights. Throws Error as that does, and
  // Error(kIo) when another process writes to the same save_path.
  explicit AscendV1Writer(AscendV1Job job);
  // In a process that joins the one which writes the checkpoint: only layers can be written, and
  // each is kept for that one. `state` is its work().state(). Throws as WorkDirectory::join.
  AscendV1Writer(AscendV1Job job, const std::string& state);
  ~AscendV1Writer();
  AscendV1Writer(const AscendV1Writer&) = delete;
  AscendV1Writer& operator=(const AscendV1Writer&) = delete;

  // From here to finish_layer() the tensors of this decoder layer are written, all of them; they
  // are kept in a file of their own as well, durable when finish_layer() returns. `note` (UTF-8) is
  // handed out again by restore_layer().
  void begin_layer(int64_t layer_idx);
  void finish_layer(const std::string& note);
  // Writes all tensors of a layer that an earlier run finished and returns its note; nullopt, and
  // nothing is written, when none did. Throws Error(kIo), Error(kFormat).
  std::optional<std::string> restore_layer(int64_t layer_idx);
  // For other parts of the run.
  WorkDirectory& work() noexcept { return *work_; }

  // A FLOAT tensor, rounded once to its dtype. A vector is a matrix of one row. `name` is the
  // tensor's, as "model.norm.weight". Throws Error(kNumeric) for a value that is not finite in that
  // dtype.
  void write_float(const std::string& name, MatView<const float> values);
  // Rows [row_begin, row_begin + values.rows) of a FLOAT matrix.
  void write_float_rows(const std::string& name, int64_t row_begin, MatView<const float> values);
  // An F32 tensor without a label, as a matrix of an online rotation.
  void write_f32(const std::string& name, MatView<const float> values);
  // A quantized linear as its label has it; scales finite and > 0. `input` is the range of static
  // activations (W8A8) and null otherwise. `linear_name` has no ".weight".
  // Where the linear has a bias [1, out_features], quant_bias holds that as well; the bias itself
  // is a FLOAT tensor of its own.
  void write_linear(const std::string& linear_name, const quant::IntWeight& weight,
                    const quant::StaticRange* input = nullptr, const Mat<float>& bias = {});
  // The matrix applied to the embedding, for optional/quarot.safetensors. Draft models read it.
  void write_global_rotation(MatView<const float> rotation);

  // Makes the checkpoint appear. Everything is written and synced first; then the weights, index
  // and description of an older checkpoint are removed, the description first, and the new files
  // renamed into place, the description last, since nothing is a quantized checkpoint without one.
  // LAOS_ASSERTs that every byte of every tensor was written.
  void commit();

 private:
  const OutputTensor& find(const std::string& name) const;
  std::vector<io::TensorSpec> tensors_of(int64_t layer_idx) const;
  void write_part(const std::string& name, int64_t offset, std::span<const std::byte> bytes);
  void index_tensors();

  AscendV1Job job_;
  std::unique_ptr<WorkDirectory> work_;
  // Destroyed before work_, whose directory they are in.
  std::unique_ptr<io::ShardedWriter> weights_;   // null in a process that joined
  std::unique_ptr<io::ShardedWriter> rotation_;  // null when the job has none
  std::unique_ptr<io::ShardedWriter> layer_;     // null outside of a layer
  int64_t layer_idx_ = 0;
  std::map<std::string, size_t> index_of_;  // tensor name -> job_.tensors
};

// quant_model_description.json of a job: labels in the order of its tensors, then what holds for
// the whole checkpoint (version, model_quant_type, metadata, group_size, optional).
std::string description_json(const AscendV1Job& job);

// config.json for the quantized model: without quantization_config, and with tie_word_embeddings
// false, since the embedding and lm_head are rotated in different ways and both are written. All
// else is kept, keys in their order; text that
// needs no change is returned as it is. `path` is for messages. Throws Error(kFormat).
std::string exported_config(const std::string& text, const std::filesystem::path& path);

}  // namespace laos::save
