// The tokenizer of a Hugging Face checkpoint: BPE, of bytes (GPT-2, Llama 3, Qwen, SmolLM2) or of
// characters with bytes for unknown ones (Llama 2, Mistral, Yi).
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

struct Decoder;

// Whether a text begins with the token that says so.
enum class Bos {
  kAsModel,  // as the post-processor of tokenizer.json and add_bos_token of tokenizer_config.json
             // say
  kAdd,
  kOmit,
};

// Immutable once loaded; encode and decode may be called from several threads at once.
class Tokenizer {
 public:
  // Reads directory/tokenizer.json and what stands beside it (tokenizer_json.h). Throws Error(kIo),
  // Error(kFormat), or Error(kUnsupported) naming the component (normalizer, pre-tokenizer, model,
  // post-processor, decoder) that is not read, or where `bos` asks for a token that there is not.
  static Tokenizer load(const std::filesystem::path& directory, Bos bos = Bos::kAsModel);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Token ids of UTF-8 `text`: added tokens are found first, the rest is normalised, cut into
  // pieces and merged. No special tokens are added. What the vocabulary has no token for is left
  // out, as by the Hugging Face library. Throws Error(kData) on text that is not UTF-8 or has a
  // word of more than 16 MiB, and Error(kUnsupported) on a regular expression that backtracks
  // beyond measure.
  std::vector<int32_t> encode(std::string_view text) const;
  // `ids` of a text behind the special tokens that a text begins with, ids_before; they are not
  // added where the text begins with them already. add_special also puts ids_after at its end.
  std::vector<int32_t> begin(std::vector<int32_t> ids) const;
  std::vector<int32_t> add_special(std::vector<int32_t> ids) const;
  std::span<const int32_t> ids_before() const noexcept;
  std::span<const int32_t> ids_after() const noexcept;
  // The text of `ids`, special tokens included. Bytes that are not UTF-8 become U+FFFD, as in the
  // Hugging Face library. Throws Error(kData) on an id that is no token.
  std::string decode(std::span<const int32_t> ids) const;
  // What token `id` stands for before decoder() is applied, valid as long as this; nothing when no
  // token has the id.
  std::optional<std::string_view> bytes_of(int32_t id) const noexcept;
  // Whether the token was added to those of the vocabulary: special ones are.
  bool is_added(int32_t id) const noexcept;
  // The byte of a token <0xNN> that the decoder takes for one.
  std::optional<char> fallback_byte_of(int32_t id) const noexcept;
  const Decoder& decoder() const noexcept;
  // Largest id + 1.
  int64_t vocab_size() const noexcept;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace laos::hf
