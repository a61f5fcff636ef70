#include "hf/tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "hf/added_tokens.h"
#include "hf/bpe.h"
#include "hf/json_file.h"
#include "hf/split_regex.h"
#include "hf/unicode.h"
#include "io/file.h"
#include "io/own_file.h"

namespace laos::hf {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxTokenizerBytes = int64_t{64} << 20;  // the largest known has about 34 MB
constexpr int64_t kMaxValues = 8'000'000;  // the largest known have some two million
constexpr uint64_t kMaxId = (uint64_t{1} << 24) - 1;
constexpr size_t kMaxProblemsOfAKind = 10;  // of one kind in one file
constexpr size_t kMaxWholePieceBytes =
    64;  // longer pieces are rare, and merging them costs at load
constexpr int32_t kNone = -1;

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

std::string in_quotes(std::string_view text) {
  constexpr size_t kMaxShown = 60;
  const bool shortened = text.size() > kMaxShown;
  return '"' + utf8_lossy(text.substr(0, kMaxShown)) + (shortened ? "...\"" : "\"");
}

// What tokenizer.json says, checked.
struct Definition {
  bool normalizes = false;
  bool ignore_merges = false;
  std::string pattern;
  std::vector<std::pair<std::string, int32_t>> vocab;  // as written, in the byte alphabet
  std::vector<Bpe::Merge> merges;
  struct Added {
    std::string content;
    AddedToken token;
    bool normalized = false;
  };
  std::vector<Added> added;
};

// Collects what is wrong with a file: malformed, or well-formed and not supported.
class Findings {
 public:
  explicit Findings(std::string file) : file_(std::move(file)) {}

  void malformed(std::string what, const std::string& where) {
    add(malformed_, num_malformed_,
        {std::move(what), file_ + where, "download the file again, or have its maker mend it"});
  }
  void unsupported(std::string what, const std::string& where) {
    add(unsupported_, num_unsupported_,
        {std::move(what), file_ + where, "use a Qwen2 or Qwen3 tokenizer"});
  }
  bool any_malformed() const noexcept { return num_malformed_ != 0; }

  void throw_if_any() {
    note_the_rest(malformed_, num_malformed_);
    malformed_.throw_if_any(ErrorCode::kFormat);
    note_the_rest(unsupported_, num_unsupported_);
    unsupported_.throw_if_any(ErrorCode::kUnsupported);
  }
  const std::string& file() const noexcept { return file_; }

 private:
  static void add(Problems& problems, size_t& count, Problem problem) {
    if (++count <= kMaxProblemsOfAKind) problems.add(std::move(problem));
  }
  void note_the_rest(Problems& problems, size_t count) const {
    if (count > kMaxProblemsOfAKind)
      problems.add({std::to_string(count - kMaxProblemsOfAKind) + " more problems", file_, ""});
  }

  std::string file_;
  Problems malformed_;
  Problems unsupported_;
  size_t num_malformed_ = 0;
  size_t num_unsupported_ = 0;
};

// The member `key` of an object; null when there is none.
const Json& member(const Json& object, const char* key) {
  static const Json null;
  if (!object.is_object()) return null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

std::string type_of(const Json& component) {
  const Json& type = member(component, "type");
  return type.is_string() ? type.get<std::string>() : "(none)";
}

bool is_empty_text(const Json& value) {
  return value.is_string() && value.get_ref<const std::string&>().empty();
}

// Null, false, 0 and "" are how tokenizer.json says that something is not used.
bool is_set(const Json& value) {
  return !(value.is_null() || value == false || value == 0 || is_empty_text(value));
}

bool is_false(const Json& value) { return value.is_boolean() && !value.get<bool>(); }

std::optional<int32_t> as_id(const Json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxId) return std::nullopt;
  return value.get<int32_t>();
}

class DefinitionReader {
 public:
  explicit DefinitionReader(const std::filesystem::path& path) : findings_(path.string()) {
    const Json root = parse_json<Json>(io::read_text(path, kMaxTokenizerBytes), path, kMaxValues);
    if (root.is_object()) {
      read_normalizer(member(root, "normalizer"));
      read_pre_tokenizer(member(root, "pre_tokenizer"));
      read_post_processor(member(root, "post_processor"));
      read_decoder(member(root, "decoder"));
      read_model(member(root, "model"));
      read_added_tokens(member(root, "added_tokens"));
    } else {
      findings_.malformed("this is not a JSON object", "");
    }
    findings_.throw_if_any();
  }

  Definition take() && { return std::move(definition_); }

 private:
  void read_normalizer(const Json& normalizer) {
    definition_.normalizes = !normalizer.is_null();
    if (definition_.normalizes && type_of(normalizer) != "NFC")
      findings_.unsupported("normalizer " + in_quotes(type_of(normalizer)) + "; known: NFC, none",
                            ": normalizer");
  }

  void read_pre_tokenizer(const Json& pre_tokenizer) {
    const std::string where = ": pre_tokenizer";
    const Json& parts = member(pre_tokenizer, "pretokenizers");
    if (type_of(pre_tokenizer) != "Sequence" || !parts.is_array() || parts.size() != 2 ||
        type_of(parts[0]) != "Split" || type_of(parts[1]) != "ByteLevel")
      return findings_.unsupported("the pre-tokenizer is not a Sequence of Split and ByteLevel",
                                   where);
    const Json& pattern = member(member(parts[0], "pattern"), "Regex");
    if (!pattern.is_string())
      findings_.unsupported("the Split pattern is no Regex", where + ".pretokenizers[0].pattern");
    else
      definition_.pattern = pattern.get<std::string>();
    if (member(parts[0], "behavior") != "Isolated")
      findings_.unsupported("a Split whose behavior is not \"Isolated\"",
                            where + ".pretokenizers[0].behavior");
    for (const char* option : {"add_prefix_space", "use_regex"})
      if (!is_false(member(parts[1], option)))
        findings_.unsupported(
            "a ByteLevel pre-tokenizer whose " + std::string(option) + " is not false",
            where + ".pretokenizers[1]." + option);
  }

  void read_post_processor(const Json& post_processor) {
    if (!post_processor.is_null() && type_of(post_processor) != "ByteLevel")
      findings_.unsupported(
          "post-processor " + in_quotes(type_of(post_processor)) + "; known: ByteLevel, none",
          ": post_processor");
  }

  void read_decoder(const Json& decoder) {
    if (type_of(decoder) != "ByteLevel")
      findings_.unsupported("decoder " + in_quotes(type_of(decoder)) + "; known: ByteLevel",
                            ": decoder");
  }

  void read_model(const Json& model) {
    if (!model.is_object())
      return findings_.malformed("`model` is missing or no object", ": model");
    if (type_of(model) != "BPE")
      return findings_.unsupported("model " + in_quotes(type_of(model)) + "; known: BPE",
                                   ": model");
    for (const char* option :
         {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"})
      if (is_set(member(model, option)))
        findings_.unsupported("a BPE model with " + std::string(option),
                              ": model." + std::string(option));
    definition_.ignore_merges = member(model, "ignore_merges") == true;
    read_vocab(member(model, "vocab"));
    if (!findings_.any_malformed()) read_merges(member(model, "merges"));
  }

  void read_vocab(const Json& vocab) {
    const std::string where = ": model.vocab";
    if (!vocab.is_object() || vocab.empty())
      return findings_.malformed("the vocabulary is missing, empty or no object", where);
    definition_.vocab.reserve(vocab.size());
    for (const auto& [token, value] : vocab.items()) {
      const std::optional<int32_t> id = as_id(value);
      if (!id)
        findings_.malformed("the id of token " + in_quotes(token) + " is not an integer of 0 to " +
                                std::to_string(kMaxId),
                            where);
      else if (!claim(*id))
        findings_.malformed(
            "two tokens have id " + std::to_string(*id) + "; one is " + in_quotes(token), where);
      else
        definition_.vocab.emplace_back(token, *id);
    }
    ids_.reserve(definition_.vocab.size());
    for (const auto& [token, id] : definition_.vocab) ids_.emplace(token, id);
  }

  void read_merges(const Json& merges) {
    const std::string where = ": model.merges";
    if (!merges.is_array()) return findings_.malformed("the merges are missing or no list", where);
    definition_.merges.reserve(merges.size());
    std::string joined;
    for (size_t i = 0; i < merges.size(); ++i) {
      const auto at = [&] { return where + "[" + std::to_string(i) + "]"; };
      const auto pair = as_pair(merges[i]);
      if (!pair) {
        findings_.malformed(R"(a merge is neither ["a", "b"] nor "a b")", at());
        continue;
      }
      joined.assign(pair->first).append(pair->second);
      Bpe::Merge merge;
      const bool known = look_up(pair->first, merge.left, at) &&
                         look_up(pair->second, merge.right, at) &&
                         look_up(joined, merge.merged, at);
      if (known) definition_.merges.push_back(merge);
    }
  }

  static std::optional<std::pair<std::string_view, std::string_view>> as_pair(const Json& merge) {
    using View = std::string_view;
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
      return std::pair<View, View>(merge[0].get_ref<const std::string&>(),
                                   merge[1].get_ref<const std::string&>());
    if (!merge.is_string()) return std::nullopt;
    const View text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == View::npos || text.find(' ', space + 1) != View::npos) return std::nullopt;
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }

  template <class At>
  bool look_up(std::string_view token, int32_t& id, const At& at) {
    const auto found = ids_.find(token);
    if (found == ids_.end()) {
      findings_.malformed(
          "a merge needs token " + in_quotes(token) + ", which the vocabulary lacks", at());
      return false;
    }
    id = found->second;
    return true;
  }

  void read_added_tokens(const Json& added_tokens) {
    const std::string where = ": added_tokens";
    if (added_tokens.is_null()) return;
    if (!added_tokens.is_array()) return findings_.malformed("the added tokens are no list", where);
    for (size_t i = 0; i < added_tokens.size(); ++i)
      read_added_token(added_tokens[i], where + "[" + std::to_string(i) + "]");
  }

  void read_added_token(const Json& entry, const std::string& where) {
    const Json& content = member(entry, "content");
    const std::optional<int32_t> id = as_id(member(entry, "id"));
    if (!content.is_string() || is_empty_text(content))
      return findings_.malformed("an added token has no content", where);
    const auto& text = content.get_ref<const std::string&>();
    if (!id)
      return findings_.malformed("the id of added token " + in_quotes(text) +
                                     " is not an integer of 0 to " + std::to_string(kMaxId),
                                 where);
    const auto in_vocab = ids_.find(text);
    if (in_vocab != ids_.end() && in_vocab->second != *id)
      return findings_.malformed("added token " + in_quotes(text) + " has id " +
                                     std::to_string(*id) + " here and " +
                                     std::to_string(in_vocab->second) + " in the vocabulary",
                                 where);
    if (in_vocab == ids_.end() && !claim(*id))
      return findings_.malformed("added token " + in_quotes(text) + " has id " +
                                     std::to_string(*id) + ", as another token has",
                                 where);

    Definition::Added added{.content = text, .token = {.id = *id}};
    const auto flag = [&](const char* name) {
      const Json& value = member(entry, name);
      if (!value.is_null() && !value.is_boolean())
        findings_.malformed(
            std::string(name) + " of added token " + in_quotes(text) + " is no boolean", where);
      return value == true;
    };
    added.token.lstrip = flag("lstrip");
    added.token.rstrip = flag("rstrip");
    added.normalized = flag("normalized");
    if (flag("single_word")) findings_.unsupported("an added token with single_word", where);
    if (text.size() > AddedTokens::kMaxContentBytes)
      return findings_.unsupported("an added token of " + std::to_string(text.size()) +
                                       " bytes; at most " +
                                       std::to_string(AddedTokens::kMaxContentBytes),
                                   where);
    if ((added.token.lstrip && leading_space(text) != 0) ||
        (added.token.rstrip && trailing_space(text) != 0))
      return findings_.unsupported("an added token that strips the white space it is made of",
                                   where);
    definition_.added.push_back(std::move(added));
  }

  // False when `id` is taken already.
  bool claim(int32_t id) {
    const auto index = static_cast<size_t>(id);
    if (index >= taken_.size()) taken_.resize(index + 1, false);
    if (taken_[index]) return false;
    taken_[index] = true;
    return true;
  }

  Findings findings_;
  Definition definition_;
  std::unordered_map<std::string_view, int32_t> ids_;  // of definition_.vocab
  std::vector<bool> taken_;
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

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(const Definition& definition, const std::string& file)
      : regex(definition.pattern, file + ": pre_tokenizer.pretokenizers[0].pattern"),
        normalizes(definition.normalizes) {
    const ByteAlphabet alphabet;
    std::array<int32_t, 256> byte_tokens = {};
    byte_tokens.fill(kNone);
    std::vector<int32_t> written_in_alphabet;
    for (const auto& [token, id] : definition.vocab) {
      const std::optional<std::string> bytes = alphabet.bytes(token);
      // A token that is not of the alphabet stands for itself, as in the Hugging Face library; no
      // text is encoded to it.
      token_bytes.add(id, bytes ? *bytes : token);
      if (!bytes) continue;
      if (bytes->size() == 1) byte_tokens[static_cast<unsigned char>(bytes->front())] = id;
      written_in_alphabet.push_back(id);
    }
    for (const Definition::Added& added : definition.added) {
      token_bytes.add(added.token.id, alphabet.bytes(added.content).value_or(added.content));
      std::string storage;
      const bool normalized = added.normalized && normalizes;
      const std::string_view content = normalized ? nfc(added.content, storage) : added.content;
      if (!(added.normalized ? normalized_tokens : raw_tokens).add(content, added.token))
        throw Error(ErrorCode::kFormat,
                    {.what = "two added tokens are " + in_quotes(added.content),
                     .where = file + ": added_tokens",
                     .fix = "download the file again, or have its maker mend it"});
    }
    bpe.emplace(byte_tokens, definition.merges, token_bytes.num_ids());
    find_whole_pieces(written_in_alphabet, definition.ignore_merges);
  }

  void find_whole_pieces(const std::vector<int32_t>& candidates, bool ignore_merges) {
    Bpe::Scratch scratch;
    std::vector<int32_t> ids;
    whole_pieces.reserve(candidates.size());
    for (const int32_t id : candidates) {
      const std::string_view bytes = *token_bytes.find(id);
      if (!ignore_merges) {
        if (bytes.size() > kMaxWholePieceBytes || !bpe->has_all_bytes_of(bytes)) continue;
        ids.clear();
        bpe->encode(bytes, scratch, ids);
        if (ids.size() != 1 || ids.front() != id) continue;
      }
      whole_pieces.emplace(bytes, id);
    }
  }

  // Tokens of `text` that holds no added token found before normalisation.
  void encode_text(std::string_view text, Bpe::Scratch& scratch, std::vector<int32_t>& ids) const {
    std::string storage;
    if (normalizes) text = nfc(text, storage);
    for (const TextPart& part : normalized_tokens.split(text)) {
      if (part.id != TextPart::kText)
        ids.push_back(part.id);
      else
        encode_pieces(part.text, scratch, ids);
    }
  }

  void encode_pieces(std::string_view text, Bpe::Scratch& scratch,
                     std::vector<int32_t>& ids) const {
    SplitRegex::Pieces pieces(regex, text);
    for (std::string_view piece; pieces.next(piece);) {
      const auto whole = whole_pieces.find(piece);
      if (whole != whole_pieces.end())
        ids.push_back(whole->second);
      else
        bpe->encode(piece, scratch, ids);
    }
  }

  SplitRegex regex;
  bool normalizes;
  AddedTokens raw_tokens;         // found before normalisation
  AddedTokens normalized_tokens;  // found after it
  TokenBytes token_bytes;
  std::optional<Bpe> bpe;
  // Pieces that become one token, found without merging: with ignore_merges every token written in
  // the byte alphabet, else those that the merges of their own bytes lead to. Most pieces of a text
  // are among them. Keys are views of token_bytes.
  std::unordered_map<std::string_view, int32_t> whole_pieces;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "tokenizer.json";
  io::require_own_file(file);
  return Tokenizer(std::make_unique<Impl>(DefinitionReader(file).take(), file.string()));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  const size_t invalid = first_invalid_utf8(text);
  if (invalid != std::string_view::npos)
    throw Error(ErrorCode::kData, {.what = "the text is not UTF-8",
                                   .where = "byte " + std::to_string(invalid) + " of the text",
                                   .fix = "convert it to UTF-8"});
  std::vector<int32_t> ids;
  Bpe::Scratch scratch;
  for (const TextPart& part : impl_->raw_tokens.split(text)) {
    if (part.id != TextPart::kText)
      ids.push_back(part.id);
    else
      impl_->encode_text(part.text, scratch, ids);
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const auto token = impl_->token_bytes.find(id);
    if (!token)
      throw Error(ErrorCode::kData, {.what = "no token has id " + std::to_string(id),
                                     .where = "",
                                     .fix = "use ids of this tokenizer"});
    bytes.append(*token);
  }
  return utf8_lossy(bytes);
}

std::optional<std::string_view> Tokenizer::bytes_of(int32_t id) const noexcept {
  return impl_->token_bytes.find(id);
}

int64_t Tokenizer::vocab_size() const noexcept { return impl_->token_bytes.num_ids(); }

}  // namespace laos::hf
