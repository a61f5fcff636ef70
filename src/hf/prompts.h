// Prompts to generate from, read from a file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hf/chat.h"

namespace laos::hf {

// One of the three is not empty.
struct Prompt {
  std::string text;
  std::vector<ChatMessage> messages;
  std::vector<int32_t> ids;
};

// .jsonl: a prompt a line; .json: a list of prompts; a prompt is a string or an object with
// `prompt` (a string), `messages` (a list of objects of `role` and `content`) or `ids` (token ids).
// Any other suffix: a prompt a line, as it is. Blank lines are skipped. Throws Error(kIo),
// Error(kData) naming the first line or item that is none of these, Error(kData) when there is no
// prompt.
std::vector<Prompt> load_prompts(const std::filesystem::path& file);

}  // namespace laos::hf
