#include "hf/text_stream.h"

#include <algorithm>
#include <utility>

#include "hf/tokenizer_json.h"
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
  const auto token = tokenizer_.bytes_of(id);
  if (!token) return finish() + kReplacement;
  if (!tokenizer_.decoder().byte_level) return push_character_token(id, *token);
  held_.append(*token);
  const size_t kept = unfinished(held_);
  std::string text = utf8_lossy(std::string_view(held_).substr(0, held_.size() - kept));
  held_.erase(0, held_.size() - kept);
  return text;
}

std::string TextStream::finish() {
  if (tokenizer_.decoder().byte_level) return utf8_lossy(std::exchange(held_, {}));
  return strip(take_bytes());
}

std::string TextStream::push_character_token(int32_t id, std::string_view token) {
  const Decoder& decoder = tokenizer_.decoder();
  const bool is_first = std::exchange(is_first_, false);
  if (const auto byte = tokenizer_.fallback_byte_of(id)) {
    held_.push_back(*byte);
    return {};
  }
  std::string text = take_bytes();
  if (decoder.pattern.empty())
    text.append(token);
  else
    text += replace_all(token, decoder.pattern,
                        is_first && decoder.begins_bare ? std::string_view() : decoder.content);
  return strip(std::move(text));
}

// As in the Hugging Face library a run of bytes that is not UTF-8 as a whole is none of it.
std::string TextStream::take_bytes() {
  std::string bytes = std::exchange(held_, {});
  if (first_invalid_utf8(bytes) == std::string_view::npos) return bytes;
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) text += kReplacement;
  return text;
}

std::string TextStream::strip(std::string text) {
  const Decoder& decoder = tokenizer_.decoder();
  while (is_stripping_ && !text.empty()) {
    is_stripping_ = stripped_ < decoder.strip_count && !decoder.strip.empty() &&
                    text.starts_with(decoder.strip);
    if (!is_stripping_) break;
    ++stripped_;
    text.erase(0, decoder.strip.size());
  }
  return text;
}

}  // namespace laos::hf
