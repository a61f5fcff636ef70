// A quantized checkpoint in another format.
#pragma once

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

}  // namespace laos::save
