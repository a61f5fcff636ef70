// A quantized checkpoint in another format.
#pragma once

#include <cstdint>
#include <filesystem>

#include "save/format.h"

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

}  // namespace laos::save
