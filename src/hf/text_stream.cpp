#include "hf/text_stream.h"

#include <algorithm>
#include <utility>

#include "hf/unicode.h"

namespace laos::hf {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Bytes at the end of `bytes` that may be the beginning of a character.
size_t unfinished(std::string_view bytes) {
  constexpr size_t kMaxCharacter = 4;
  for (size_t n = std::min(bytes.size(), kMaxCharacter - 1); n > 0; --n) {
    const std::string_view tail = bytes.substr(bytes.size() - n);
    const auto first = static_cast<unsigned char>(tail.front());
    const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC2 ? 2 : 1;
    // A well-formed beginning reaches to the end and lacks bytes.
    const Utf8Step step = utf8_step(tail);
    if (n < length && !step.valid && step.length == n) return n;
  }
  return 0;
}

}  // namespace

std::string TextStream::push(int32_t id) {
  const auto bytes = tokenizer_.bytes_of(id);
  if (!bytes) return finish() + kReplacement;
  held_.append(*bytes);
  const size_t kept = unfinished(held_);
  std::string text = utf8_lossy(std::string_view(held_).substr(0, held_.size() - kept));
  held_.erase(0, held_.size() - kept);
  return text;
}

std::string TextStream::finish() { return utf8_lossy(std::exchange(held_, {})); }

}  // namespace laos::hf
