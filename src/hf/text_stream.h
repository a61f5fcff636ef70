// Text of tokens as they come.
#pragma once

#include <cstdint>
#include <string>

#include "hf/tokenizer.h"

namespace laos::hf {

// Turns tokens into text one at a time. A character whose bytes are spread over tokens comes whole,
// with its last one. All that push and finish return, put together, is what Tokenizer::decode gives
// for the same ids; an id that is no token is U+FFFD.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string push(int32_t id);
  std::string finish();  // what was held back

 private:
  const Tokenizer& tokenizer_;
  std::string held_;  // the beginning of a character
};

}  // namespace laos::hf
