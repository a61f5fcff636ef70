// tokenizer.json and the files beside it that add tokens, read and checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hf/added_tokens.h"
#include "hf/bpe.h"

namespace laos::hf {

// tokenizer_config.json of a model; an empty object where there is none. Throws Error(kIo), and
// Error(kFormat) for what is no JSON object or too large for one.
nlohmann::ordered_json read_tokenizer_config(const std::filesystem::path& directory);

struct NormalizerStep {
  enum class Kind { kNfc, kPrepend, kReplace };
  Kind kind = Kind::kNfc;
  std::string pattern;  // kReplace: each of these
  std::string content;  // becomes this; kPrepend: what stands before a text that is not empty
};

// One of the steps that cut text into the pieces that BPE merges within.
struct SplitStep {
  enum class Kind {
    kRegex,         // cuts at the matches of `pattern` and between them
    kLeadingSpace,  // a space before each piece that has none
    kMetaspace,     // every space becomes `mark`, and a piece may get one more at its front
    kWords,         // cuts before marks, where that changes nothing but the time that it takes
  };
  enum class Prepend { kAlways, kFirst, kNever };  // kFirst: only where the whole text begins
  Kind kind = Kind::kRegex;
  std::string pattern = {};
  std::string where = {};  // the pattern's place, for messages
  std::string mark = {};
  Prepend prepend = Prepend::kAlways;
};

// How tokens become text again.
struct Decoder {
  bool byte_level = false;     // characters stand for bytes; nothing below counts
  std::string pattern;         // not empty: each of these in a token
  std::string content;         // becomes this
  bool begins_bare = false;    // in the first token each pattern becomes nothing
  bool byte_fallback = false;  // tokens <0xNN> are bytes
  std::string strip;           // taken away at the beginning of the text,
  int64_t strip_count = 0;     // at most so many times
};

struct TokenizerDefinition {
  struct Added {
    std::string content;
    AddedToken token = {};
    bool normalized = false;
    bool special = false;
  };

  std::vector<NormalizerStep> normalizer;
  std::vector<SplitStep> splits;
  bool byte_level = false;  // the vocabulary is written in the alphabet that stands for bytes
  Decoder decoder;
  bool ignore_merges = false;
  bool byte_fallback = false;
  bool fuse_unknown = false;
  std::optional<int32_t> unknown;
  std::vector<std::pair<std::string, int32_t>> vocab;  // as written
  std::vector<Bpe::Merge> merges;
  std::vector<Added> added;
  // Special tokens that the post-processor puts around a text, as add_bos_token and add_eos_token
  // of tokenizer_config.json correct it.
  std::vector<int32_t> before, after;
  std::optional<int32_t> bos;  // `bos_token` of tokenizer_config.json
};

// Reads directory/tokenizer.json and, where they are there, tokenizer_config.json,
// special_tokens_map.json and added_tokens.json, whose tokens are added as the Hugging Face library
// transformers does: an added token whose content is in the vocabulary has its id there, any other
// the next free one, whatever id the file writes beside it. Throws Error(kIo), Error(kFormat), or
// Error(kUnsupported) naming the component and its place.
TokenizerDefinition read_tokenizer(const std::filesystem::path& directory);

}  // namespace laos::hf
