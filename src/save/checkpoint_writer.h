// Writing a checkpoint of any format, or of several at once: staged, resumable, and whole or not
// there at all.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/tensor.h"
#include "io/safetensors.h"
#include "quant/int_weight.h"
#include "save/job.h"
#include "save/work_directory.h"

namespace laos::save {

struct InputTransform;

// Bytes on disk of all files that the job writes to its own directory.
int64_t planned_bytes(const CheckpointJob& job);
// Likewise to all its directories, and of the finished layers that are kept until the end.
int64_t planned_bytes_of_all(const CheckpointJob& job);

// Holds the paths of a job and its others against the disk without creating anything; for use
// before any heavy work. Throws Error: kUsage when save_path is empty, not a directory, the model
// directory or inside it, holds weights that are not the format's (an engine would load them too)
// or directories in place of files, or when model_type is no file name; kIo when save_path, or its
// nearest existing parent, is not writable or a file to copy is not in the model directory;
// kResource when the disk has less than `bytes_needed` free, what an earlier run left there counted
// as free; and as check_work.
void check_output_path(const CheckpointJob& job, int64_t bytes_needed);

// Writes the checkpoint of a job and those of its others. Until commit() all data is in
// .laos-partial of each save_path, and of work_path, and an older checkpoint in save_path stays
// whole. Destroyed without commit(), it keeps the finished parts of work() and finish_layer(), for
// the next run of the same job; without any, everything it created is removed, save_path included.
// One thread at a time.
class CheckpointWriter {
 public:
  // check_output_path, then takes what an earlier run of the same job.work finished and reserves
  // the disk space of all weights. Throws Error as that does, and
  // Error(kIo) when another process writes to the same save_path.
  explicit CheckpointWriter(CheckpointJob job);
  // In a process that joins the one which writes the checkpoint: only layers can be written, and
  // each is kept for that one. `state` is its work().state(). Throws as WorkDirectory::join.
  CheckpointWriter(CheckpointJob job, const std::string& state);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // From here to finish_layer() the tensors of this decoder layer are written, all of them; they
  // are kept in a file of their own as well, those of all directories in one, durable when
  // finish_layer() returns. `note` (UTF-8) is handed out again by restore_layer().
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
  // A tensor of any label, by the bytes that it has in the checkpoint.
  void write_as_is(const std::string& name, std::span<const std::byte> bytes);
  // A quantized linear as the format has it; scales finite and > 0 (or, where the scheme has signed
  // ones, not 0). `input` is the range of static activations and null otherwise; `bias`
  // [out_features] where the linear has one. `transform` is there where the scheme transforms; its
  // matrices are exact in the dtype of the float tensors. `linear_name` has no ".weight".
  void write_linear(const std::string& linear_name, const quant::IntWeight& weight,
                    const quant::StaticRange* input = nullptr, std::span<const float> bias = {},
                    const InputTransform* transform = nullptr);
  // Of the cache of what this linear gives, [out_features], each finite and > 0; the offsets are 0.
  void write_cache_scales(const std::string& linear_name, std::span<const float> scales);
  // The matrix applied to the embedding, for optional/quarot.safetensors. Draft models read it.
  void write_global_rotation(MatView<const float> rotation);

  // Makes the checkpoint appear. Everything is written and synced first; then the format's mark
  // file is removed or, where that is config.json, replaced by unfinished_config; then the weights
  // and index of an older checkpoint are removed, and the new files renamed into place, the mark
  // last, since nothing is a quantized checkpoint without it. Of several directories all are
  // written first, and finished parts are kept until the last has appeared. LAOS_ASSERTs that every
  // byte of every tensor was written.
  void commit();

 private:
  class Directory;
  void make_directories();
  std::vector<io::TensorSpec> tensors_of(int64_t layer_idx) const;

  CheckpointJob job_;
  std::unique_ptr<WorkDirectory> work_;
  std::unique_ptr<io::ShardedWriter> layer_;  // null outside of a layer
  int64_t layer_idx_ = 0;
  // Destroyed before work_, whose directory they are in.
  std::vector<std::unique_ptr<Directory>> directories_;
};

}  // namespace laos::save
