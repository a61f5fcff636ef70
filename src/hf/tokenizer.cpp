#include "hf/tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "hf/added_tokens.h"
#include "hf/bpe.h"
#include "hf/split_regex.h"
#include "hf/text_stream.h"
#include "hf/tokenizer_json.h"
#include "hf/unicode.h"

namespace laos::hf {
namespace {

// Longer pieces are rare, and merging them costs at load.
constexpr size_t kMaxWholePieceBytes = 64;
constexpr int32_t kNone = -1;
// No normalizer makes a text so much longer; a hostile one doubles it again and again.
constexpr size_t kMaxGrowth = 16;
constexpr std::string_view kMark = "\u2581";  // what SentencePiece writes for a space

// The alphabet of byte-level BPE: every byte is written as one printable character. Bytes that
// Latin-1 prints stand for themselves, the others take the characters from U+0100 on.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    byte_of_.fill(kNone);
    int32_t next = 0x100;
    for (int32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      byte_of_[static_cast<size_t>(printable ? byte : next++)] = byte;
    }
  }

  // The bytes that `token` stands for; nothing if it has a character that is not of the alphabet.
  std::optional<std::string> bytes(std::string_view token) const {
    std::string result;
    for (std::string_view rest = token; !rest.empty();) {
      utf8proc_int32_t character = 0;
      const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(rest.data()),
                                           static_cast<utf8proc_ssize_t>(rest.size()), &character);
      if (length <= 0 || character >= std::ssize(byte_of_)) return std::nullopt;
      const int32_t byte = byte_of_[static_cast<size_t>(character)];
      if (byte == kNone) return std::nullopt;
      result.push_back(static_cast<char>(byte));
      rest.remove_prefix(static_cast<size_t>(length));
    }
    return result;
  }

 private:
  std::array<int32_t, 324> byte_of_;
};

// What every id stands for, in bytes.
class TokenBytes {
 public:
  void add(int32_t id, std::string_view bytes) {
    const auto index = static_cast<size_t>(id);
    if (index >= extents_.size()) extents_.resize(index + 1);
    extents_[index] = {static_cast<int32_t>(bytes_.size()), static_cast<int32_t>(bytes.size())};
    bytes_.append(bytes);
  }
  int64_t num_ids() const noexcept { return std::ssize(extents_); }
  std::optional<std::string_view> find(int32_t id) const noexcept {
    if (id < 0 || id >= num_ids()) return std::nullopt;
    const Extent& extent = extents_[static_cast<size_t>(id)];
    if (extent.begin == kNone) return std::nullopt;
    return std::string_view(bytes_).substr(static_cast<size_t>(extent.begin),
                                           static_cast<size_t>(extent.length));
  }

 private:
  struct Extent {
    int32_t begin = kNone;
    int32_t length = 0;
  };
  std::string bytes_;
  std::vector<Extent> extents_;
};

// The byte that a token "<0xNN>" stands for, or kNone.
int32_t fallback_byte(std::string_view token) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return kNone;
  };
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return kNone;
  const int32_t high = digit(token[3]);
  const int32_t low = digit(token[4]);
  return high == kNone || low == kNone ? kNone : high * 16 + low;
}

// `text` as the normalizer leaves it: itself, or a view of `storage`.
std::string_view normalize(const std::vector<NormalizerStep>& steps, std::string_view text,
                           std::string& storage) {
  const size_t size = text.size();
  for (const NormalizerStep& step : steps) {
    std::string next;
    switch (step.kind) {
      case NormalizerStep::Kind::kNfc:
        if (const std::string_view composed = nfc(text, next); composed.data() == text.data())
          continue;
        break;
      case NormalizerStep::Kind::kPrepend:
        if (text.empty()) continue;
        next.append(step.content).append(text);
        break;
      case NormalizerStep::Kind::kReplace:
        next = replace_all(text, step.pattern, step.content);
        break;
    }
    if (next.size() / kMaxGrowth > size + kMaxGrowth)
      throw Error(ErrorCode::kUnsupported, {.what = "the normalizer makes a text more than " +
                                                    std::to_string(kMaxGrowth) + " times as long",
                                            .where = "tokenizer.json normalizer",
                                            .fix = "use another tokenizer"});
    storage = std::move(next);
    text = storage;
  }
  return text;
}

// Whether no merge makes a token in which a mark follows something else. Then text may be cut
// before each such mark: the pieces are merged as the whole would be.
bool words_stand_alone(const TokenizerDefinition& definition, const TokenBytes& token_bytes) {
  bool has_mark = false;
  for (const auto& [token, id] : definition.vocab) has_mark = has_mark || token == kMark;
  return has_mark && std::none_of(definition.merges.begin(), definition.merges.end(),
                                  [&](const Bpe::Merge& merge) {
                                    return token_bytes.find(merge.right)->starts_with(kMark) &&
                                           !token_bytes.find(merge.left)->ends_with(kMark);
                                  });
}

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(TokenizerDefinition definition, const std::string& file)
      : normalizer(std::move(definition.normalizer)),
        decoder(std::move(definition.decoder)),
        before(std::move(definition.before)),
        after(std::move(definition.after)) {
    for (SplitStep& step : definition.splits) {
      Step& added = splits.emplace_back();
      if (step.kind == SplitStep::Kind::kRegex) added.regex.emplace(step.pattern, step.where);
      added.rule = std::move(step);
    }
    const ByteAlphabet byte_alphabet;
    Bpe::Alphabet alphabet;
    alphabet.by_character = !definition.byte_level;
    alphabet.unknown = definition.unknown.value_or(kNone);
    alphabet.fuse_unknown = definition.fuse_unknown;
    std::vector<int32_t> reachable;  // by text
    for (const auto& [token, id] : definition.vocab) {
      if (!definition.byte_level) {
        add_token(id, token);
        add_to_alphabet(token, id, definition.byte_fallback, alphabet);
        reachable.push_back(id);
        continue;
      }
      const std::optional<std::string> bytes = byte_alphabet.bytes(token);
      // A token that is not of the alphabet stands for itself, as in the Hugging Face library; no
      // text is encoded to it.
      add_token(id, bytes ? *bytes : token);
      if (!bytes) continue;
      if (bytes->size() == 1) alphabet.bytes[static_cast<unsigned char>(bytes->front())] = id;
      reachable.push_back(id);
    }
    const bool cuts_words = !definition.byte_level && !definition.ignore_merges &&
                            words_stand_alone(definition, token_bytes);
    if (cuts_words) splits.emplace_back().rule.kind = SplitStep::Kind::kWords;
    add_added_tokens(definition, byte_alphabet, file);
    bpe.emplace(std::move(alphabet), definition.merges, token_bytes.num_ids());
    find_whole_pieces(reachable, definition.ignore_merges);
  }

  void add_token(int32_t id, std::string_view text) {
    token_bytes.add(id, text);
    if (!decoder.byte_fallback) return;
    const int32_t byte = fallback_byte(
        decoder.pattern.empty() ? text : replace_all(text, decoder.pattern, decoder.content));
    if (byte != kNone) byte_of_token.insert_or_assign(id, static_cast<char>(byte));
  }

  static void add_to_alphabet(std::string_view token, int32_t id, bool byte_fallback,
                              Bpe::Alphabet& alphabet) {
    if (token.empty()) return;
    if (utf8_step(token).length == token.size()) {
      const auto character = static_cast<size_t>(code_point(token));
      if (character >= alphabet.characters.size()) alphabet.characters.resize(character + 1, kNone);
      alphabet.characters[character] = id;
    }
    // The library looks up upper-case digits only.
    if (const int32_t byte = fallback_byte(token);
        byte_fallback && byte != kNone &&
        std::none_of(token.begin() + 3, token.end(), [](char c) { return c >= 'a'; }))
      alphabet.bytes[static_cast<size_t>(byte)] = id;
  }

  void add_added_tokens(const TokenizerDefinition& definition, const ByteAlphabet& byte_alphabet,
                        const std::string& file) {
    for (const bool special : {true, false})
      for (const TokenizerDefinition::Added& added : definition.added) {
        if (added.special != special) continue;
        const std::optional<std::string> bytes =
            decoder.byte_level ? byte_alphabet.bytes(added.content) : std::nullopt;
        add_token(added.token.id, bytes ? *bytes : added.content);
        std::string storage;
        const std::string_view content =
            added.normalized ? normalize(normalizer, added.content, storage) : added.content;
        if (content.size() > AddedTokens::kMaxContentBytes)
          throw Error(ErrorCode::kUnsupported,
                      {.what = "an added token of " + std::to_string(content.size()) +
                               " bytes; at most " + std::to_string(AddedTokens::kMaxContentBytes),
                       .where = file + ": added_tokens",
                       .fix = "use a tokenizer with shorter ones"});
        // Where two have the same content once it is normalised, the first is found.
        (added.normalized ? normalized_tokens : raw_tokens).add(content, added.token);
      }
  }

  void find_whole_pieces(const std::vector<int32_t>& candidates, bool ignore_merges) {
    Bpe::Scratch scratch;
    std::vector<int32_t> ids;
    whole_pieces.reserve(candidates.size());
    for (const int32_t id : candidates) {
      const std::string_view bytes = *token_bytes.find(id);
      if (!ignore_merges) {
        if (bytes.size() > kMaxWholePieceBytes || bytes.empty() || !bpe->knows(bytes)) continue;
        ids.clear();
        bpe->encode(bytes, scratch, ids);
        if (ids.size() != 1 || ids.front() != id) continue;
      }
      whole_pieces.emplace(bytes, id);
      longest_whole_piece = std::max(longest_whole_piece, bytes.size());
    }
  }

  struct Output {
    SplitRegex::Scratch cutting;
    Bpe::Scratch merging;
    std::vector<int32_t> ids;
  };

  // Tokens of `text` that holds no added token found before normalisation. at_start: it is the
  // beginning of the whole text.
  void encode_text(std::string_view text, bool at_start, Output& out) const {
    std::string storage;
    text = normalize(normalizer, text, storage);
    for (const TextPart& part : normalized_tokens.split(text)) {
      if (part.id != TextPart::kText)
        out.ids.push_back(part.id);
      else
        encode_pieces(0, part.text, at_start && part.text.data() == text.data(), out);
    }
  }

  // Tokens of a piece that the steps before `step` made.
  void encode_pieces(size_t step, std::string_view text, bool at_start, Output& out) const {
    if (step == splits.size()) return encode_piece(text, out);
    const SplitStep& rule = splits[step].rule;
    switch (rule.kind) {
      case SplitStep::Kind::kRegex: {
        SplitRegex::Pieces pieces(*splits[step].regex, text, out.cutting);
        for (std::string_view piece; pieces.next(piece);)
          encode_pieces(step + 1, piece, at_start && piece.data() == text.data(), out);
        return;
      }
      case SplitStep::Kind::kLeadingSpace: {
        if (text.starts_with(' ')) return encode_pieces(step + 1, text, at_start, out);
        return encode_pieces(step + 1, std::string(" ").append(text), at_start, out);
      }
      case SplitStep::Kind::kMetaspace: {
        std::string marked = replace_all(text, " ", rule.mark);
        const bool prepends = rule.prepend == SplitStep::Prepend::kAlways ||
                              (rule.prepend == SplitStep::Prepend::kFirst && at_start);
        if (prepends && !marked.starts_with(rule.mark)) marked.insert(0, rule.mark);
        return encode_pieces(step + 1, marked, at_start, out);
      }
      case SplitStep::Kind::kWords: {
        while (!text.empty()) {
          size_t letters = 0;
          while (text.substr(letters).starts_with(kMark)) letters += kMark.size();
          const size_t end = text.find(kMark, letters);
          encode_pieces(step + 1, text.substr(0, end), at_start, out);
          text.remove_prefix(std::min(end, text.size()));
        }
        return;
      }
    }
  }

  void encode_piece(std::string_view piece, Output& out) const {
    if (piece.size() <= longest_whole_piece) {
      const auto whole = whole_pieces.find(piece);
      if (whole != whole_pieces.end()) return out.ids.push_back(whole->second);
    }
    bpe->encode(piece, out.merging, out.ids);
  }

  struct Step {
    SplitStep rule;
    std::optional<SplitRegex> regex;
  };

  std::vector<NormalizerStep> normalizer;
  std::vector<Step> splits;
  Decoder decoder;
  std::vector<int32_t> before, after;
  AddedTokens raw_tokens;         // found before normalisation
  AddedTokens normalized_tokens;  // found after it
  TokenBytes token_bytes;
  std::unordered_map<int32_t, char> byte_of_token;  // of tokens <0xNN>, where the decoder says so
  std::optional<Bpe> bpe;
  // Pieces that become one token, found without merging: with ignore_merges every token that a text
  // can be, else those that the merges of their own parts lead to. Most pieces of a text are among
  // them. Keys are views of token_bytes.
  std::unordered_map<std::string_view, int32_t> whole_pieces;
  size_t longest_whole_piece = 0;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::filesystem::path& directory, Bos bos) {
  TokenizerDefinition definition = read_tokenizer(directory);
  if (bos == Bos::kOmit) definition.before.clear();
  if (bos == Bos::kAdd && definition.before.empty()) {
    if (!definition.bos)
      throw Error(ErrorCode::kUnsupported,
                  {.what = "the tokenizer names no token that begins a text",
                   .where = (directory / "tokenizer_config.json").string() + ": bos_token",
                   .fix = "do not ask for one: such models are trained without"});
    definition.before = {*definition.bos};
  }
  return Tokenizer(
      std::make_unique<Impl>(std::move(definition), (directory / "tokenizer.json").string()));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  const size_t invalid = first_invalid_utf8(text);
  if (invalid != std::string_view::npos)
    throw Error(ErrorCode::kData, {.what = "the text is not UTF-8",
                                   .where = "byte " + std::to_string(invalid) + " of the text",
                                   .fix = "convert it to UTF-8"});
  Impl::Output out{
      .cutting = SplitRegex::Scratch(text.size(), impl_->splits.size()), .merging = {}, .ids = {}};
  for (const TextPart& part : impl_->raw_tokens.split(text)) {
    if (part.id != TextPart::kText)
      out.ids.push_back(part.id);
    else
      impl_->encode_text(part.text, part.text.data() == text.data(), out);
  }
  return std::move(out.ids);
}

std::vector<int32_t> Tokenizer::begin(std::vector<int32_t> ids) const {
  const std::vector<int32_t>& before = impl_->before;
  const bool begun =
      ids.size() >= before.size() && std::equal(before.begin(), before.end(), ids.begin());
  if (!begun) ids.insert(ids.begin(), before.begin(), before.end());
  return ids;
}

std::vector<int32_t> Tokenizer::add_special(std::vector<int32_t> ids) const {
  ids = begin(std::move(ids));
  ids.insert(ids.end(), impl_->after.begin(), impl_->after.end());
  return ids;
}

std::span<const int32_t> Tokenizer::ids_before() const noexcept { return impl_->before; }
std::span<const int32_t> Tokenizer::ids_after() const noexcept { return impl_->after; }

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  for (const int32_t id : ids)
    if (!impl_->token_bytes.find(id))
      throw Error(ErrorCode::kData, {.what = "no token has id " + std::to_string(id),
                                     .where = "",
                                     .fix = "use ids of this tokenizer"});
  std::string text;
  if (impl_->decoder.byte_level) {
    for (const int32_t id : ids) text.append(*impl_->token_bytes.find(id));
    return utf8_lossy(text);
  }
  TextStream stream(*this);
  for (const int32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

std::optional<std::string_view> Tokenizer::bytes_of(int32_t id) const noexcept {
  return impl_->token_bytes.find(id);
}

bool Tokenizer::is_added(int32_t id) const noexcept {
  return impl_->raw_tokens.has(id) || impl_->normalized_tokens.has(id);
}

std::optional<char> Tokenizer::fallback_byte_of(int32_t id) const noexcept {
  const auto found = impl_->byte_of_token.find(id);
  return found == impl_->byte_of_token.end() ? std::nullopt : std::optional(found->second);
}

const Decoder& Tokenizer::decoder() const noexcept { return impl_->decoder; }

int64_t Tokenizer::vocab_size() const noexcept { return impl_->token_bytes.num_ids(); }

}  // namespace laos::hf
