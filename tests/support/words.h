// Names of parameterized tests.
#pragma once

#include <cctype>
#include <string>

namespace laos::test {

// The letters and digits of a text as one word, its number before, which makes it the only one.
inline std::string as_word(const std::string& text, size_t number) {
  std::string word = std::to_string(number) + "_";
  bool begins = true;
  for (const char c : text.substr(0, 80)) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0) word += static_cast<char>(begins ? std::toupper(byte) : byte);
    begins = std::isalnum(byte) == 0;
  }
  return word;
}

}  // namespace laos::test
