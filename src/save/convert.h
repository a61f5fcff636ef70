// A quantized checkpoint in another format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "save/checkpoint_writer.h"
#include "save/format.h"
#include "save/work_directory.h"

namespace laos::save {

// Writes the checkpoint in `directory` to `save_path` as `format` has it: the same codes and
// scales, bit for bit; biases are rounded to the format's dtype. Tokenizer and the like are copied.
// Throws Error: kUsage where `directory` is not quantized or already of that format; kUnsupported,
// all problems at once, for what the format has no place for; and as hf::open_quantized and
// check_output_path.
void convert(const std::filesystem::path& directory, const Format& format,
             const std::filesystem::path& save_path);

// Writes the AscendV1 checkpoint in `directory` to `save_path` for another tensor parallel size:
// the matrices in front of linears whose inputs engines split are cut for `ranks` ranks, and every
// other tensor is the same, byte for byte. Only where they repeat a small matrix, as those do that
// were made for several sizes. Throws Error: kUsage where `directory` is no such checkpoint or
// serves that size already; kUnsupported, all problems at once, where matrices cannot be cut so;
// and as above.
void convert_to_ranks(const std::filesystem::path& directory, int64_t ranks,
                      const std::filesystem::path& save_path);

// Factors on the scales of linears' weights, one an output row, each finite and > 0, by the name of
// the linear.
using RowFactors = std::map<std::string, std::vector<float>>;

// The checkpoint in `directory` with other scales, on its way to `save_path`: what is learned
// meanwhile can be kept in work(), see CheckpointWriter.
class Rescaling {
 public:
  // Throws Error: kUsage where `directory` is not quantized; kUnsupported, all problems at once,
  // for what `convert` cannot write in the checkpoint's own format; and as CheckpointWriter.
  Rescaling(const std::filesystem::path& directory, const std::filesystem::path& save_path,
            WorkPlan work);
  ~Rescaling();
  Rescaling(const Rescaling&) = delete;
  Rescaling& operator=(const Rescaling&) = delete;

  // What the constructor would refuse, without creating anything.
  static void check(const std::filesystem::path& directory, const std::filesystem::path& save_path,
                    WorkPlan work);
  WorkDirectory& work();
  // The scales of these linears times their factors, rounded to what the scales were values of or
  // the label's engines hold them in; all else is the same.
  void write(const RowFactors& factors);

 private:
  class Source;
  std::unique_ptr<Source> source_;
  std::unique_ptr<CheckpointWriter> writer_;
};

}  // namespace laos::save
