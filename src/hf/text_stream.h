// Text of tokens as they come.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "hf/tokenizer.h"

namespace laos::hf {

// Turns tokens into text one at a time. A character whose bytes are spread over tokens comes whole,
// with its last one; tokens <0xNN>, which are text together or not at all, with what follows them.
// All that push and finish return, put together, is what Tokenizer::decode gives for the same ids;
// an id that is no token is U+FFFD.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string push(int32_t id);
  std::string finish();  // what was held back

 private:
  std::string push_character_token(int32_t id, std::string_view token);
  std::string take_bytes();
  std::string strip(std::string text);

  const Tokenizer& tokenizer_;
  std::string held_;          // the beginning of a character, or bytes of tokens <0xNN>
  bool is_first_ = true;      // no token has come
  int64_t stripped_ = 0;      // times that the decoder's `strip` was taken away
  bool is_stripping_ = true;  // the text has not begun
};

}  // namespace laos::hf
