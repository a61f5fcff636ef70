// Text in UTF-8.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace laos {

// Code points of well-formed UTF-8.
inline int64_t num_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace laos
