// The safetensors format: 8 bytes little-endian header length, JSON header, data.
// Source: https://github.com/huggingface/safetensors (format description).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "io/file.h"

namespace laos::io {

// Every tensor of a checkpoint: one file or the shards an index names, memory-mapped and checked
// whole: header length and JSON, known dtypes, shapes without overflow, offsets inside the file, no
// overlap, no gap, byte counts, no tensor twice, no shard path outside the directory. Views live as
// long as this.
class TensorFiles {
 public:
  // Opens `directory`/`stem`.safetensors, or the shards of
  // `directory`/`stem`.safetensors.index.json. When both exist and the index is of other files, the
  // single file wins, as in transformers. The index may name tensors of `may_be_absent` that no
  // shard has. Throws Error(kIo) or Error(kFormat), all problems at once.
  static TensorFiles open(const std::filesystem::path& directory, const std::string& stem,
                          const std::set<std::string>& may_be_absent = {});
  // Opens exactly these files. The same checks.
  static TensorFiles open_files(const std::vector<std::filesystem::path>& files);

  bool contains(const std::string& name) const { return tensors_.contains(name); }
  // Throws Error(kFormat) naming the nearest tensor when there is none of that name.
  const TensorView& at(const std::string& name) const;
  // Null when there is none of that name.
  const TensorView* find(const std::string& name) const;
  const std::map<std::string, TensorView>& tensors() const noexcept { return tensors_; }
  // Gives tensors other names, old to new; no two may have one name afterwards.
  void rename(const std::map<std::string, std::string>& names);
  // Replaces a tensor by as many of `shape` as there are names, which lie in it end to end.
  void split(const std::string& name, const std::vector<std::string>& names, const Shape& shape);
  // File name (no directory) that holds `name`.
  const std::string& file_of(const std::string& name) const;
  // Takes what has been read out of the process, see io::drop_pages.
  void drop_pages() const noexcept;

 private:
  class Loader;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> file_of_;
};

// What will be written, before any of it exists.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;

  int64_t size_bytes() const noexcept { return num_elements(shape) * size_of(dtype); }
};

// How tensors are spread over files. `max_shard_bytes` 0: one file `stem`.safetensors. Else a shard
// is closed before a tensor with which it would hold max_shard_bytes or more; a larger tensor
// stands alone. Files are `stem`-0000k-of-0000N.safetensors even for N = 1.
struct ShardPlan {
  struct Shard {
    std::string file_name;
    std::vector<TensorSpec> tensors;  // in write order
  };
  std::vector<Shard> shards;
  int64_t total_size = 0;  // bytes of tensor data

  int64_t file_bytes() const;  // of all files, headers included
};
ShardPlan plan_shards(const std::vector<TensorSpec>& tensors, const std::string& stem,
                      int64_t max_shard_bytes);

// Writes the files of a plan, tensors in any order and a row range at a time; no file is visible
// under its final name before commit(). Destroyed without commit(), everything it wrote is removed.
// Equal plans and contents give equal bytes. For one thread at a time. Throws Error(kIo),
// Error(kResource).
class ShardedWriter {
 public:
  ShardedWriter(const std::filesystem::path& directory, ShardPlan plan);

  // The whole tensor. `bytes` must be exactly its size.
  void write(const std::string& name, std::span<const std::byte> bytes);
  // Bytes [offset, offset + bytes.size()) of the tensor's data.
  void write_part(const std::string& name, int64_t offset, std::span<const std::byte> bytes);
  // Syncs and renames every file. LAOS_ASSERTs that every byte of every tensor was written.
  void commit();

  // {"metadata": {"total_size": n}, "weight_map": {tensor: file}} with indent 2, tensors in write
  // order.
  std::string index_json() const;
  const ShardPlan& plan() const noexcept { return plan_; }

 private:
  struct Slot {
    size_t shard;
    int64_t begin;  // in the file
    int64_t size;
    int64_t written = 0;
  };
  ShardPlan plan_;
  std::vector<PendingFile> files_;
  std::map<std::string, Slot> slots_;
};

}  // namespace laos::io
