// JSON Lines and JSON lists of texts, read without a tree: memory is that of the texts wanted.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace laos::hf {

// The string `field` of the JSON object that `line` is; nothing when the object has no such field
// (of two, the later counts). Throws Error(kData) naming `where` when line is no JSON object or
// field no string.
std::optional<std::string> string_field(std::string_view line, std::string_view field,
                                        const std::string& where);

// The strings of the JSON list that `text` is. Throws Error(kData) naming `where` and the first
// item that is no string, or where the JSON is malformed.
std::vector<std::string> string_list(std::string_view text, const std::string& where);

}  // namespace laos::hf
