// `generation_config.json` of a Hugging Face checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace laos::hf {

// The tokens that end a text: eos_token_id, an id or a list, of directory/generation_config.json,
// or, without that file or field, of config.json. May be empty. Throws Error(kFormat), Error(kIo).
std::vector<int32_t> read_eos_token_ids(const std::filesystem::path& directory);

}  // namespace laos::hf
