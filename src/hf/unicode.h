// UTF-8 text and normalisation form C.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace laos::hf {

// What stands at the front of a byte string: one UTF-8 character, or bytes that begin none.
struct Utf8Step {
  size_t length =
      0;  // bytes of the character; if not valid, of its longest well-formed beginning, >= 1
  bool valid = false;
};

// `text` must not be empty.
Utf8Step utf8_step(std::string_view text) noexcept;

// The character that valid UTF-8 `text`, which is not empty, begins with.
int32_t code_point(std::string_view text) noexcept;

// Offset of the first byte that is not UTF-8; npos when there is none.
size_t first_invalid_utf8(std::string_view text) noexcept;

// `bytes` with every ill-formed piece (as utf8_step measures it) replaced by U+FFFD. These are the
// replacements of the Unicode standard, section 3.9, and of Rust's String::from_utf8_lossy.
std::string utf8_lossy(std::string_view bytes);

// `text` with each `pattern`, which is not empty, replaced by `content`, from the left.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);

// Bytes of white space (Unicode property White_Space) that valid UTF-8 `text` begins or ends with.
size_t leading_space(std::string_view text) noexcept;
size_t trailing_space(std::string_view text) noexcept;

// Valid UTF-8 `text` in normalisation form C, as of Unicode 9 like the Hugging Face library's:
// `text` itself when every character is below U+0300, else a view of `storage`. Linear in the text
// but for the sorting of runs of combining marks (n log n).
std::string_view nfc(std::string_view text, std::string& storage);

}  // namespace laos::hf
