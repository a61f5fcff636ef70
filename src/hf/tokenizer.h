// The tokenizer of a Hugging Face checkpoint: byte-level BPE as Qwen2 and Qwen3 use it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace laos::hf {

// Immutable once loaded; encode and decode may be called from several threads at once.
class Tokenizer {
 public:
  // Reads directory/tokenizer.json. Throws Error(kIo), Error(kFormat), or Error(kUnsupported)
  // naming the component (normalizer, pre-tokenizer, model, decoder) that is not what byte-level
  // BPE needs.
  static Tokenizer load(const std::filesystem::path& directory);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Token ids of UTF-8 `text`: added tokens are found first, the rest is NFC-normalised, split by
  // the tokenizer's regular expression and merged. No special tokens are added. Throws Error(kData)
  // on text that is not UTF-8 or has a word of more than 16 MiB, and Error(kUnsupported) on a byte
  // that has no token or a regular expression that backtracks beyond measure.
  std::vector<int32_t> encode(std::string_view text) const;
  // The text of `ids`, special tokens included. Bytes that are not UTF-8 become U+FFFD, as in the
  // Hugging Face library. Throws Error(kData) on an id that is no token.
  std::string decode(std::span<const int32_t> ids) const;
  // The bytes that token `id` stands for, valid as long as this; nothing when no token has the id.
  std::optional<std::string_view> bytes_of(int32_t id) const noexcept;
  // Largest id + 1.
  int64_t vocab_size() const noexcept;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace laos::hf
