#include "hf/tokenizer_json.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <unordered_map>

#include "core/error.h"
#include "hf/json_file.h"
#include "hf/split_regex.h"
#include "hf/unicode.h"
#include "io/file.h"
#include "io/large_json.h"
#include "io/own_file.h"

namespace laos::hf {
namespace {

using TokenizerJson = nlohmann::json;
using OrderedTokenizerJson = nlohmann::ordered_json;

constexpr int64_t kMaxTokenizerBytes = int64_t{64} << 20;  // the largest known has about 34 MB
constexpr int64_t kMaxValues = 8'000'000;      // the largest known have some two million
constexpr int64_t kMaxConfigValues = 200'000;  // of tokenizer_config.json: seven an added token
constexpr uint64_t kMaxId = (uint64_t{1} << 24) - 1;
constexpr size_t kMaxProblemsOfAKind = 10;  // of one kind in one file
constexpr size_t kMaxContent = 16;          // bytes that a replacement puts in
constexpr size_t kMaxSteps = 64;            // of a normalizer, pre-tokenizer, decoder or template

// What ByteLevel cuts by where use_regex is set: GPT-2's pattern.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// What Digits takes for a digit: \p{N} of a Unicode later than that of the patterns.
constexpr std::string_view kDigit = "[\\p{N}\U00011DE0-\U00011DE9\U00016FF4-\U00016FF6]";

std::string in_quotes(std::string_view text) {
  constexpr size_t kMaxShown = 60;
  const bool shortened = text.size() > kMaxShown;
  return '"' + utf8_lossy(text.substr(0, kMaxShown)) + (shortened ? "...\"" : "\"");
}

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
        {std::move(what), file_ + where,
         "use a tokenizer of the Llama, Mistral, Qwen2 or Qwen3 families"});
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
const TokenizerJson& member(const TokenizerJson& object, const char* key) {
  static const TokenizerJson null;
  if (!object.is_object()) return null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

std::string type_of(const TokenizerJson& component) {
  const TokenizerJson& type = member(component, "type");
  return type.is_string() ? type.get<std::string>() : "(none)";
}

bool is_empty_text(const TokenizerJson& value) {
  return value.is_string() && value.get_ref<const std::string&>().empty();
}

// Null, false, 0 and "" are how tokenizer.json says that something is not used.
bool is_set(const TokenizerJson& value) {
  return !(value.is_null() || value == false || value == 0 || is_empty_text(value));
}

bool is_false(const TokenizerJson& value) { return value.is_boolean() && !value.get<bool>(); }

std::optional<int32_t> as_id(const TokenizerJson& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxId) return std::nullopt;
  return value.get<int32_t>();
}

std::string key_of(size_t i) { return "[" + std::to_string(i) + "]"; }

// A JSON object beside tokenizer.json; an empty one where there is no such file.
OrderedTokenizerJson read_if_there(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return OrderedTokenizerJson::object();
  io::require_own_file(path);
  auto json = parse_json<OrderedTokenizerJson>(io::read_text(path, kMaxTokenizerBytes), path,
                                               kMaxConfigValues);
  if (!json.is_object())
    throw Error(ErrorCode::kFormat, {.what = "this is not a JSON object",
                                     .where = path.string(),
                                     .fix = "download the file again"});
  return json;
}

// Reads the parts of a definition that say how text is cut and put together.
class PipelineReader {
 public:
  PipelineReader(Findings& findings, TokenizerDefinition& definition)
      : findings_(findings), definition_(definition) {}

  void read_normalizer(const TokenizerJson& normalizer) {
    static constexpr const char* kKnown = "NFC, Prepend, Replace, Sequence, none";
    for (const Component& part : flatten(normalizer, "normalizers", "normalizer")) {
      const std::string type = type_of(*part.json);
      NormalizerStep step;
      if (type == "NFC") {
        definition_.normalizer.push_back(step);
      } else if (type == "Prepend") {
        step.kind = NormalizerStep::Kind::kPrepend;
        step.content = text_at(*part.json, "prepend", part.where);
        definition_.normalizer.push_back(step);
      } else if (type == "Replace") {
        step.kind = NormalizerStep::Kind::kReplace;
        step.pattern = literal_pattern(*part.json, part.where);
        step.content = text_at(*part.json, "content", part.where);
        if (step.content.empty())
          findings_.unsupported("a Replace normalizer that removes text", part.where + ".content");
        definition_.normalizer.push_back(step);
      } else {
        unknown_component("normalizer", type, kKnown, part.where);
      }
    }
  }

  void read_pre_tokenizer(const TokenizerJson& pre_tokenizer) {
    const std::vector<Component> parts = flatten(pre_tokenizer, "pretokenizers", "pre_tokenizer");
    for (const Component& part : parts) {
      if (definition_.byte_level)
        findings_.unsupported("a pre-tokenizer that follows ByteLevel", part.where);
      read_split(*part.json, part.where);
    }
  }

  void read_decoder(const TokenizerJson& decoder) {
    static constexpr const char* kKnown =
        "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, Sequence";
    if (decoder.is_null()) return findings_.unsupported("there is no decoder", ": decoder");
    // Each kind once, in the order of this list; Strip only of the text in one piece.
    int stage = 0;
    bool fused = false;
    bool known = true;
    Decoder& result = definition_.decoder;
    for (const Component& part : flatten(decoder, "decoders", "decoder")) {
      const std::string type = type_of(*part.json);
      const auto enter = [&](int own) {
        if (own <= stage)
          findings_.unsupported("the decoder " + in_quotes(type) + " at this place", part.where);
        stage = own;
      };
      if (type == "ByteLevel") {
        enter(1);
        stage = 5;
        result.byte_level = true;
      } else if (type == "Replace") {
        enter(1);
        result.pattern = literal_pattern(*part.json, part.where);
        result.content = text_at(*part.json, "content", part.where);
      } else if (type == "Metaspace") {
        enter(1);
        result.pattern = mark_of(*part.json, part.where);
        result.content = " ";
        result.begins_bare = prepend_of(*part.json, part.where) != SplitStep::Prepend::kNever;
      } else if (type == "ByteFallback") {
        enter(2);
        result.byte_fallback = true;
      } else if (type == "Fuse") {
        enter(3);
        fused = true;
      } else if (type == "Strip") {
        enter(4);
        result.strip = text_at(*part.json, "content", part.where);
        result.strip_count = count_at(*part.json, "start", part.where);
        if (!result.strip.empty() && utf8_step(result.strip).length != result.strip.size())
          findings_.malformed("what Strip takes away is not one character",
                              part.where + ".content");
        if (!fused || count_at(*part.json, "stop", part.where) != 0)
          findings_.unsupported("a Strip decoder that is not of the beginning of the whole text",
                                part.where);
      } else {
        known = false;
        unknown_component("decoder", type, kKnown, part.where);
      }
    }
    if (known && result.byte_level != definition_.byte_level)
      findings_.unsupported(result.byte_level
                                ? "a ByteLevel decoder without a ByteLevel pre-tokenizer"
                                : "a ByteLevel pre-tokenizer without a ByteLevel decoder",
                            ": decoder");
  }

  // After the vocabulary and the added tokens. `exists` says whether a token has an id.
  template <class Exists>
  void read_post_processor(const TokenizerJson& post_processor, const Exists& exists) {
    static constexpr const char* kKnown = "TemplateProcessing, ByteLevel, Sequence, none";
    for (const Component& part : flatten(post_processor, "processors", "post_processor")) {
      const std::string type = type_of(*part.json);
      if (type == "TemplateProcessing")
        read_template(*part.json, part.where, exists);
      else if (type != "ByteLevel")  // that one is about offsets only
        unknown_component("post-processor", type, kKnown, part.where);
    }
  }

 private:
  struct Component {
    const TokenizerJson* json;
    std::string where;
  };

  // The components that `root` consists of: itself, or those of a Sequence of any depth.
  std::vector<Component> flatten(const TokenizerJson& root, const char* list,
                                 const std::string& name) {
    std::vector<Component> result;
    if (!root.is_null()) append_components(root, list, ": " + name, result);
    if (result.size() > kMaxSteps) {
      findings_.unsupported("more than " + std::to_string(kMaxSteps) + " steps", ": " + name);
      result.clear();
    }
    return result;
  }

  void append_components(const TokenizerJson& json, const char* list, const std::string& where,
                         std::vector<Component>& result) {
    if (type_of(json) != "Sequence") return result.push_back({&json, where});
    const TokenizerJson& parts = member(json, list);
    if (!parts.is_array())
      return findings_.malformed("a Sequence without its list", where + "." + list);
    for (size_t i = 0; i < parts.size(); ++i)
      append_components(parts[i], list, where + "." + list + key_of(i), result);
  }

  void unknown_component(const char* what, const std::string& type, const char* known,
                         const std::string& where) {
    findings_.unsupported(std::string(what) + " " + in_quotes(type) + "; known: " + known, where);
  }

  void read_split(const TokenizerJson& json, const std::string& where) {
    const std::string type = type_of(json);
    if (type == "ByteLevel") {
      definition_.byte_level = true;
      if (flag_at(json, "add_prefix_space", where))
        definition_.splits.push_back({.kind = SplitStep::Kind::kLeadingSpace});
      if (member(json, "use_regex").is_null() || flag_at(json, "use_regex", where))
        add_regex(std::string(kByteLevelPattern), where);
    } else if (type == "Split") {
      const TokenizerJson& pattern = member(json, "pattern");
      const TokenizerJson& regex = member(pattern, "Regex");
      if (regex.is_string())
        add_regex(regex.get<std::string>(), where + ".pattern.Regex");
      else
        add_regex(SplitRegex::quote(literal_pattern(json, where)), where + ".pattern.String");
      if (member(json, "behavior") != "Isolated")
        findings_.unsupported("a Split whose behavior is not \"Isolated\"", where + ".behavior");
    } else if (type == "Digits") {
      const bool individual = flag_at(json, "individual_digits", where);
      add_regex(std::string(kDigit) + (individual ? "" : "+"), where);
    } else if (type == "Metaspace") {
      const std::string mark = mark_of(json, where);
      definition_.splits.push_back(
          {.kind = SplitStep::Kind::kMetaspace, .mark = mark, .prepend = prepend_of(json, where)});
      const std::string quoted = SplitRegex::quote(mark);
      if (member(json, "split").is_null() || flag_at(json, "split", where))
        add_regex(quoted + "[^" + quoted + "]*", where);
    } else {
      unknown_component("pre-tokenizer", type, "ByteLevel, Split, Digits, Metaspace, Sequence",
                        where);
    }
  }

  void add_regex(std::string pattern, const std::string& where) {
    definition_.splits.push_back(
        {.pattern = std::move(pattern), .where = findings_.file() + where});
  }

  std::string mark_of(const TokenizerJson& metaspace, const std::string& where) {
    std::string mark = text_at(metaspace, "replacement", where);
    if (mark.empty() || utf8_step(mark).length != mark.size())
      findings_.malformed("the replacement of Metaspace is not one character",
                          where + ".replacement");
    return mark;
  }

  SplitStep::Prepend prepend_of(const TokenizerJson& metaspace, const std::string& where) {
    using enum SplitStep::Prepend;
    const TokenizerJson& scheme = member(metaspace, "prepend_scheme");
    // The older spelling; beside prepend_scheme it says the same.
    const TokenizerJson& older = member(metaspace, "add_prefix_space");
    if (scheme.is_null()) return is_false(older) ? kNever : kAlways;
    if (scheme == "always") return kAlways;
    if (scheme == "first") return kFirst;
    if (scheme != "never")
      findings_.malformed("the prepend_scheme is none of always, first, never",
                          where + ".prepend_scheme");
    return kNever;
  }

  std::string text_at(const TokenizerJson& json, const char* key, const std::string& where) {
    const TokenizerJson& value = member(json, key);
    if (!value.is_string()) {
      findings_.malformed("`" + std::string(key) + "` is missing or no string", where + "." + key);
      return {};
    }
    const auto& text = value.get_ref<const std::string&>();
    if (text.size() > kMaxContent)
      findings_.unsupported(
          "`" + std::string(key) + "` of more than " + std::to_string(kMaxContent) + " bytes",
          where + "." + key);
    return text;
  }

  bool flag_at(const TokenizerJson& json, const char* key, const std::string& where) {
    const TokenizerJson& value = member(json, key);
    if (!value.is_boolean())
      findings_.malformed("`" + std::string(key) + "` is missing or no boolean", where + "." + key);
    return value == true;
  }

  int64_t count_at(const TokenizerJson& json, const char* key, const std::string& where) {
    const TokenizerJson& value = member(json, key);
    if (value.is_number_unsigned() && value.get<uint64_t>() <= kMaxId) return value.get<int64_t>();
    findings_.malformed("`" + std::string(key) + "` is missing or no count", where + "." + key);
    return 0;
  }

  std::string literal_pattern(const TokenizerJson& json, const std::string& where) {
    const TokenizerJson& text = member(member(json, "pattern"), "String");
    if (text.is_string() && !is_empty_text(text)) return text.get<std::string>();
    findings_.unsupported("the pattern of " + type_of(json) + " is not a String that is not empty",
                          where + ".pattern");
    return {};
  }

  template <class Exists>
  void read_template(const TokenizerJson& json, const std::string& where, const Exists& exists) {
    const TokenizerJson& single = member(json, "single");
    if (!single.is_array())
      return findings_.malformed("TemplateProcessing without its list", where + ".single");
    std::vector<int32_t> before, after;
    int texts = 0;
    for (size_t i = 0; i < single.size(); ++i) {
      const std::string at = where + ".single" + key_of(i);
      const TokenizerJson& text = member(single[i], "Sequence");
      const TokenizerJson& name = member(member(single[i], "SpecialToken"), "id");
      if (member(text, "id") == "A") {
        ++texts;
      } else if (name.is_string()) {
        append_special(json, name.get_ref<const std::string&>(), at, exists,
                       texts == 0 ? before : after);
      } else {
        findings_.malformed("neither the text (Sequence A) nor a SpecialToken", at);
      }
    }
    if (before.size() > kMaxSteps || after.size() > kMaxSteps)
      findings_.unsupported("a template of more than " + std::to_string(kMaxSteps) + " tokens",
                            where);
    if (texts != 1) findings_.unsupported("a template without one place for the text", where);
    definition_.before.insert(definition_.before.begin(), before.begin(), before.end());
    definition_.after.insert(definition_.after.end(), after.begin(), after.end());
  }

  template <class Exists>
  void append_special(const TokenizerJson& json, const std::string& name, const std::string& where,
                      const Exists& exists, std::vector<int32_t>& ids) {
    const TokenizerJson& list = member(member(member(json, "special_tokens"), name.c_str()), "ids");
    if (!list.is_array() || list.empty())
      return findings_.malformed("special token " + in_quotes(name) + " has no ids", where);
    for (const TokenizerJson& value : list) {
      const std::optional<int32_t> id = as_id(value);
      if (!id || !exists(*id))
        return findings_.malformed(
            "an id of special token " + in_quotes(name) + " is that of no token", where);
      ids.push_back(*id);
    }
  }

  Findings& findings_;
  TokenizerDefinition& definition_;
};

// The added tokens in the making: which id each has is decided as in the Hugging Face library.
class AddedTokenList {
 public:
  explicit AddedTokenList(TokenizerDefinition& definition) : definition_(definition) {
    ids_.reserve(definition.vocab.size());
    for (const auto& [token, id] : definition.vocab) {
      ids_.emplace(token, id);
      mark_taken(id);
    }
  }

  // The id of a token of the vocabulary or an added one.
  std::optional<int32_t> find(std::string_view content) const {
    const auto added = index_.find(std::string(content));
    if (added != index_.end()) return definition_.added[added->second].token.id;
    const auto known = ids_.find(content);
    return known == ids_.end() ? std::nullopt : std::optional(known->second);
  }
  bool is_added(const std::string& content) const { return index_.contains(content); }
  bool exists(int32_t id) const {
    const auto index = static_cast<size_t>(id);
    return index < taken_.size() && taken_[index];
  }

  // A token that is there already gets the properties of `token`, whose id does not count.
  void add(TokenizerDefinition::Added token, Findings& findings, const std::string& where) {
    if (token.content.empty()) return;
    const std::string shown = in_quotes(token.content);
    if (token.content.size() > AddedTokens::kMaxContentBytes)
      return findings.unsupported("an added token of " + std::to_string(token.content.size()) +
                                      " bytes; at most " +
                                      std::to_string(AddedTokens::kMaxContentBytes),
                                  where);
    if ((token.token.lstrip && leading_space(token.content) != 0) ||
        (token.token.rstrip && trailing_space(token.content) != 0))
      return findings.unsupported(
          "the added token " + shown + ", which strips the white space it is made of", where);
    const auto known = index_.find(token.content);
    if (known != index_.end()) {
      token.token.id = definition_.added[known->second].token.id;
      definition_.added[known->second] = std::move(token);
      return;
    }
    const auto in_vocab = ids_.find(token.content);
    token.token.id = in_vocab != ids_.end() ? in_vocab->second : next_id();
    if (in_vocab == ids_.end() && exists(token.token.id))
      return findings.malformed("added token " + shown + " gets the id " +
                                    std::to_string(token.token.id) +
                                    ", which a token of the vocabulary has: its ids have gaps",
                                where);
    if (token.token.id > static_cast<int32_t>(kMaxId))
      return findings.malformed("too many tokens", where);
    mark_taken(token.token.id);
    max_added_ = std::max(max_added_, token.token.id);
    index_.emplace(token.content, definition_.added.size());
    definition_.added.push_back(std::move(token));
  }

 private:
  int32_t next_id() const {
    const auto size = static_cast<int32_t>(definition_.vocab.size());
    return max_added_ >= size ? max_added_ + 1 : size;
  }
  void mark_taken(int32_t id) {
    const auto index = static_cast<size_t>(id);
    if (index >= taken_.size()) taken_.resize(index + 1, false);
    taken_[index] = true;
  }

  TokenizerDefinition& definition_;
  std::unordered_map<std::string_view, int32_t> ids_;  // of definition_.vocab
  std::unordered_map<std::string, size_t> index_;      // of definition_.added
  std::vector<bool> taken_;
  int32_t max_added_ = -1;
};

// The properties of an added token as JSON objects of every one of the files give them.
template <class Json>
std::optional<TokenizerDefinition::Added> read_added(const Json& entry, bool special,
                                                     Findings& findings, const std::string& where) {
  TokenizerDefinition::Added added;
  const auto value_of = [&](const char* key) -> const Json* {
    const auto it = entry.find(key);
    return it == entry.end() || it->is_null() ? nullptr : &*it;
  };
  const Json* content = entry.is_object() ? value_of("content") : nullptr;
  if (!content || !content->is_string() ||
      content->template get_ref<const std::string&>().empty()) {
    findings.malformed("an added token has no content", where);
    return std::nullopt;
  }
  added.content = content->template get<std::string>();
  const auto flag = [&](const char* key, bool otherwise) {
    const Json* value = value_of(key);
    if (value && !value->is_boolean())
      findings.malformed(
          std::string(key) + " of added token " + in_quotes(added.content) + " is no boolean",
          where);
    return value ? *value == true : otherwise;
  };
  added.special = flag("special", false) || special;
  added.token.lstrip = flag("lstrip", false);
  added.token.rstrip = flag("rstrip", false);
  added.normalized = flag("normalized", !added.special);
  if (flag("single_word", false)) findings.unsupported("an added token with single_word", where);
  return added;
}

class DefinitionReader {
 public:
  explicit DefinitionReader(const std::filesystem::path& path)
      : findings_(path.string()),
        beside_(path.parent_path().string() + "/"),
        pipeline_(findings_, definition_) {
    const io::LargeJson<TokenizerJson> file{
        parse_json<TokenizerJson>(io::read_text(path, kMaxTokenizerBytes), path, kMaxValues)};
    const TokenizerJson& root = file.value;
    if (root.is_object()) {
      pipeline_.read_normalizer(member(root, "normalizer"));
      pipeline_.read_pre_tokenizer(member(root, "pre_tokenizer"));
      pipeline_.read_decoder(member(root, "decoder"));
      read_model(member(root, "model"));
      AddedTokenList tokens(definition_);
      read_added_tokens(member(root, "added_tokens"), tokens);
      findings_.throw_if_any();
      const OrderedTokenizerJson config = read_files_beside(path.parent_path(), tokens);
      pipeline_.read_post_processor(member(root, "post_processor"),
                                    [&](int32_t id) { return tokens.exists(id); });
      read_bos_and_eos(config, tokens);
    } else {
      findings_.malformed("this is not a JSON object", "");
    }
    findings_.throw_if_any();
  }

  TokenizerDefinition take() && { return std::move(definition_); }

 private:
  void read_model(const TokenizerJson& model) {
    if (!model.is_object())
      return findings_.malformed("`model` is missing or no object", ": model");
    if (type_of(model) != "BPE")
      return findings_.unsupported("model " + in_quotes(type_of(model)) + "; known: BPE",
                                   ": model");
    for (const char* option : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"})
      if (is_set(member(model, option)))
        findings_.unsupported("a BPE model with " + std::string(option),
                              ": model." + std::string(option));
    definition_.ignore_merges = member(model, "ignore_merges") == true;
    definition_.byte_fallback = member(model, "byte_fallback") == true;
    definition_.fuse_unknown = member(model, "fuse_unk") == true;
    if (definition_.byte_fallback && definition_.byte_level)
      findings_.unsupported("byte_fallback beside a ByteLevel pre-tokenizer",
                            ": model.byte_fallback");
    read_vocab(member(model, "vocab"));
    if (findings_.any_malformed()) return;
    std::unordered_map<std::string_view, int32_t> ids;
    ids.reserve(definition_.vocab.size());
    for (const auto& [token, id] : definition_.vocab) ids.emplace(token, id);
    const TokenizerJson& unknown = member(model, "unk_token");
    if (unknown.is_string()) {
      const auto found = ids.find(unknown.get_ref<const std::string&>());
      if (found != ids.end()) definition_.unknown = found->second;
      // With every byte in the vocabulary nothing is unknown, and such files name any token here.
      if (found == ids.end() && !definition_.byte_level)
        findings_.malformed("the unk_token is not in the vocabulary", ": model.unk_token");
    }
    read_merges(member(model, "merges"), ids);
  }

  void read_vocab(const TokenizerJson& vocab) {
    const std::string where = ": model.vocab";
    if (!vocab.is_object() || vocab.empty())
      return findings_.malformed("the vocabulary is missing, empty or no object", where);
    definition_.vocab.reserve(vocab.size());
    std::vector<bool> taken;
    for (const auto& [token, value] : vocab.items()) {
      const std::optional<int32_t> id = as_id(value);
      if (!id) {
        findings_.malformed("the id of token " + in_quotes(token) + " is not an integer of 0 to " +
                                std::to_string(kMaxId),
                            where);
        continue;
      }
      const auto index = static_cast<size_t>(*id);
      if (index >= taken.size()) taken.resize(index + 1, false);
      if (taken[index])
        findings_.malformed(
            "two tokens have id " + std::to_string(*id) + "; one is " + in_quotes(token), where);
      taken[index] = true;
      definition_.vocab.emplace_back(token, *id);
    }
  }

  using Ids = std::unordered_map<std::string_view, int32_t>;

  void read_merges(const TokenizerJson& merges, const Ids& ids) {
    const std::string where = ": model.merges";
    if (!merges.is_array()) return findings_.malformed("the merges are missing or no list", where);
    definition_.merges.reserve(merges.size());
    std::string joined;
    for (size_t i = 0; i < merges.size(); ++i) {
      const auto at = [&] { return where + key_of(i); };
      const auto pair = as_pair(merges[i]);
      if (!pair) {
        findings_.malformed(R"(a merge is neither ["a", "b"] nor "a b")", at());
        continue;
      }
      joined.assign(pair->first).append(pair->second);
      Bpe::Merge merge;
      const bool known = look_up(ids, pair->first, merge.left, at) &&
                         look_up(ids, pair->second, merge.right, at) &&
                         look_up(ids, joined, merge.merged, at);
      if (known) definition_.merges.push_back(merge);
    }
  }

  static std::optional<std::pair<std::string_view, std::string_view>> as_pair(
      const TokenizerJson& merge) {
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
  bool look_up(const Ids& ids, std::string_view token, int32_t& id, const At& at) {
    const auto found = ids.find(token);
    if (found == ids.end()) {
      findings_.malformed(
          "a merge needs token " + in_quotes(token) + ", which the vocabulary lacks", at());
      return false;
    }
    id = found->second;
    return true;
  }

  void read_added_tokens(const TokenizerJson& added_tokens, AddedTokenList& tokens) {
    const std::string where = ": added_tokens";
    if (added_tokens.is_null()) return;
    if (!added_tokens.is_array()) return findings_.malformed("the added tokens are no list", where);
    for (size_t i = 0; i < added_tokens.size(); ++i) {
      const auto added = read_added(added_tokens[i], false, findings_, where + key_of(i));
      if (!added) continue;
      if (!as_id(member(added_tokens[i], "id")))
        findings_.malformed("the id of added token " + in_quotes(added->content) +
                                " is not an integer of 0 to " + std::to_string(kMaxId),
                            where + key_of(i));
      tokens.add(*added, findings_, where + key_of(i));
    }
  }

  // What tokenizer_config.json and its older companions add to tokenizer.json. Returns the former,
  // as the latter complete it.
  OrderedTokenizerJson read_files_beside(const std::filesystem::path& directory,
                                         AddedTokenList& tokens) {
    const std::string file = "tokenizer_config.json";
    OrderedTokenizerJson config = read_tokenizer_config(directory);
    std::vector<TokenizerDefinition::Added> by_id;
    if (const auto listed = config.find("added_tokens_decoder"); listed != config.end())
      by_id = read_added_tokens_decoder(*listed);
    else
      by_id = read_older_files(directory, config, tokens);
    for (auto& added : by_id)
      tokens.add(std::move(added), beside_, file + ": added_tokens_decoder");

    const auto add_named = [&](const OrderedTokenizerJson& value, const std::string& key) {
      const std::string where = file + ": " + key;
      const auto added =
          value.is_string()
              ? TokenizerDefinition::Added{.content = value.get<std::string>(), .special = true}
              : read_added(value, true, beside_, where).value_or(TokenizerDefinition::Added{});
      if (!tokens.is_added(added.content)) tokens.add(added, beside_, where);
    };
    static constexpr const char* kNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                             "pad_token", "cls_token", "mask_token"};
    for (const char* name : kNames)
      if (const auto it = config.find(name); it != config.end() && !it->is_null())
        add_named(*it, name);
    for (const auto& [key, value] : config.items())
      if (key.ends_with("_token") && value.is_string()) add_named(value, key);
    for (const std::string list : {"extra_special_tokens", "additional_special_tokens"}) {
      const auto it = config.find(list);
      if (it == config.end() || it->empty()) continue;
      if (!it->is_structured())
        beside_.malformed("neither a list nor an object of tokens", file + ": " + list);
      for (const auto& value : *it) add_named(value, list);
      if (it->is_array()) break;  // the later key is the older name of the first
    }
    beside_.throw_if_any();
    return config;
  }

  std::vector<TokenizerDefinition::Added> read_added_tokens_decoder(
      const OrderedTokenizerJson& listed) {
    const std::string where = "tokenizer_config.json: added_tokens_decoder";
    std::map<int32_t, TokenizerDefinition::Added> by_id;
    if (!listed.is_object()) {
      beside_.malformed("added_tokens_decoder is no object", where);
      return {};
    }
    for (const auto& [key, value] : listed.items()) {
      const std::optional<int32_t> id = id_in(key);
      if (!id) beside_.malformed("the key " + in_quotes(key) + " is no id", where);
      if (auto added = read_added(value, false, beside_, where + "." + key); added && id)
        by_id.insert_or_assign(*id, std::move(*added));
    }
    return values_of(std::move(by_id));
  }

  // Without added_tokens_decoder, special_tokens_map.json overrides tokenizer_config.json, and
  // added_tokens.json adds tokens.
  std::vector<TokenizerDefinition::Added> read_older_files(const std::filesystem::path& directory,
                                                           OrderedTokenizerJson& config,
                                                           const AddedTokenList& tokens) {
    const OrderedTokenizerJson map = read_if_there(directory / "special_tokens_map.json");
    for (const auto& [key, value] : map.items()) config[key] = value;
    std::set<std::string> special;
    for (const auto& [key, value] : config.items()) {
      if (key.ends_with("_token") && value.is_string()) special.insert(value.get<std::string>());
      if (key.ends_with("_special_tokens") && value.is_array())
        for (const auto& token : value)
          if (token.is_string()) special.insert(token.get<std::string>());
    }
    std::map<int32_t, TokenizerDefinition::Added> by_id;
    const OrderedTokenizerJson added_tokens = read_if_there(directory / "added_tokens.json");
    for (const auto& [content, value] : added_tokens.items()) {
      if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxId) {
        beside_.malformed("the id of added token " + in_quotes(content) + " is no integer",
                          "added_tokens.json");
        continue;
      }
      const bool is_special = special.contains(content);
      by_id.insert_or_assign(
          value.get<int32_t>(),
          TokenizerDefinition::Added{
              .content = content, .normalized = !is_special, .special = is_special});
    }
    // tokenizer.json's own tokens count where both name one.
    auto added = values_of(std::move(by_id));
    std::erase_if(added, [&](const auto& token) { return tokens.is_added(token.content); });
    return added;
  }

  static std::vector<TokenizerDefinition::Added> values_of(
      std::map<int32_t, TokenizerDefinition::Added> by_id) {
    std::vector<TokenizerDefinition::Added> values;
    for (auto& [id, added] : by_id) values.push_back(std::move(added));
    return values;
  }

  static std::optional<int32_t> id_in(const std::string& digits) {
    if (digits.empty() || digits.size() > 8 ||
        digits.find_first_not_of("0123456789") != std::string::npos)
      return std::nullopt;
    const int id = std::stoi(digits);
    return id <= static_cast<int>(kMaxId) ? std::optional(id) : std::nullopt;
  }

  void read_bos_and_eos(const OrderedTokenizerJson& config, const AddedTokenList& tokens) {
    const auto token = [&](const char* key) -> std::optional<int32_t> {
      const auto it = config.find(key);
      if (it == config.end()) return std::nullopt;
      if (it->is_string()) return tokens.find(it->get_ref<const std::string&>());
      if (!it->is_object() || !it->contains("content")) return std::nullopt;
      return tokens.find((*it)["content"].get_ref<const std::string&>());
    };
    const auto apply = [&](const char* key, std::optional<int32_t> id, std::vector<int32_t>& ids) {
      const auto it = config.find(key);
      if (it == config.end() || !it->is_boolean()) return;
      ids.clear();
      if (it->get<bool>() && id) ids.push_back(*id);
    };
    definition_.bos = token("bos_token");
    apply("add_bos_token", definition_.bos, definition_.before);
    apply("add_eos_token", token("eos_token"), definition_.after);
  }

  Findings findings_;
  Findings beside_;  // of the files beside it
  TokenizerDefinition definition_;
  PipelineReader pipeline_;
};

}  // namespace

nlohmann::ordered_json read_tokenizer_config(const std::filesystem::path& directory) {
  return read_if_there(directory / "tokenizer_config.json");
}

TokenizerDefinition read_tokenizer(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "tokenizer.json";
  std::error_code ignored;  // what cannot be looked at is told of where it is read
  if (!std::filesystem::exists(std::filesystem::symlink_status(file, ignored)))
    throw Error(ErrorCode::kIo, {.what = "there is no tokenizer.json",
                                 .where = file.string(),
                                 .fix = "download it; of an older tokenizer transformers makes it: "
                                        "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"});
  io::require_own_file(file);
  return DefinitionReader(file).take();
}

}  // namespace laos::hf
