#include "hf/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "core/error.h"
#include "hf/unicode.h"

namespace laos::hf {
namespace {

constexpr size_t kMaxPatternBytes = 16384;
constexpr uint32_t kHeapLimitKiB = 65'536;
// Steps of matching. Most matches take a few; those that need more are charged to the text's
// budget, which is far above what a sane pattern needs and a second or so of backtracking.
constexpr uint32_t kFreeSteps = 64;
constexpr size_t kStepsPerByte = 64;
constexpr size_t kLeastBudget = 50'000'000;

// Property White_Space. PCRE2's \s adds U+180E, a space no longer.
constexpr std::string_view kSpaces = R"(\p{Zl}\p{Zp}\t-\r\x{85}\p{Zs})";
// Members of L and N that Unicode 14 (PCRE2 10.42) lacks and Unicode 16 has; assigned for ever, so
// naming them does no harm where the library knows them.
constexpr std::string_view kLettersSinceUnicode14 =
    R"(\x{1c89}\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d4a}-\x{10d65})"
    R"(\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}\x{11240}\x{11380}-\x{11389}\x{1138b}\x{1138e})"
    R"(\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10})"
    R"(\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446}\x{13460}-\x{143fa}\x{16100}-\x{1611d})"
    R"(\x{16d40}-\x{16d6c}\x{18cff}\x{1b132}\x{1b155}\x{1df25}-\x{1df2a}\x{1e030}-\x{1e06d})"
    R"(\x{1e4d0}-\x{1e4eb}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr std::string_view kNumbersSinceUnicode14 =
    R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59}\x{16130}-\x{16139})"
    R"(\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3}\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }
bool is_ascii_punctuation(char c) {
  return c > ' ' && c < '\x7f' && !is_ascii_letter(c) && !is_ascii_digit(c);
}

// Rewrites a pattern from Oniguruma's Ruby syntax into PCRE2's, refusing what the two read
// differently.
class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : rest_(pattern), where_(where) {}

  std::string translate() {
    while (!rest_.empty()) {
      if (in_class_)
        translate_in_class();
      else
        translate_outside_class();
    }
    if (in_class_) refuse("a class that is not closed");
    return std::move(out_);
  }

 private:
  void translate_outside_class() {
    const char c = rest_.front();
    if (c == '\\') return translate_escape();
    if (c == '[') return open_class();
    if (c == '(') return open_group();
    if (c == '{') return copy_repeat();
    if (c == '.' || c == '^' || c == '$') refuse(std::string("'") + c + "'");
    copy(1);
  }

  void translate_in_class() {
    if (rest_.front() == '\\') return translate_escape();
    if (rest_.front() == '[') refuse("a class within a class");
    if (rest_.starts_with("&&")) refuse("'&&' in a class");
    if (rest_.front() == ']') in_class_ = false;
    copy(1);
  }

  void open_class() {
    copy(rest_.starts_with("[^") ? 2 : 1);
    if (rest_.starts_with("]")) refuse("']' at the beginning of a class");
    in_class_ = true;
  }

  void open_group() {
    for (const std::string_view opening : {"(?:", "(?i:", "(?>", "(?=", "(?!", "(?<=", "(?<!"})
      if (rest_.starts_with(opening)) return copy(opening.size());
    if (rest_.starts_with("(?") || rest_.starts_with("(*"))
      refuse("the group '" + std::string(rest_.substr(0, 4)) + "'");
    copy(1);
  }

  // {n}, {n,} or {n,m}. What follows it may be no second quantifier: there the two syntaxes part.
  void copy_repeat() {
    size_t i = 1;
    while (i < rest_.size() && is_ascii_digit(rest_[i])) ++i;
    const bool has_minimum = i > 1;
    if (i < rest_.size() && rest_[i] == ',') ++i;
    while (i < rest_.size() && is_ascii_digit(rest_[i])) ++i;
    if (!has_minimum || i >= rest_.size() || rest_[i] != '}')
      refuse("a '{' that is no repeat count");
    copy(i + 1);
    if (!rest_.empty() && std::string_view("+?*{").find(rest_.front()) != std::string_view::npos)
      refuse("a quantifier after a repeat count");
  }

  void translate_escape() {
    const char c = rest_.size() < 2 ? '\0' : rest_[1];
    if (c == 'p' || c == 'P') return translate_property();
    if (c == 's' || c == 'S') {
      emit_class(c == 'S', kSpaces);
      return drop(2);
    }
    if (std::string_view("rntf").find(c) == std::string_view::npos && !is_ascii_punctuation(c))
      refuse("the escape '" + std::string(rest_.substr(0, 2)) + "'");
    copy(2);
  }

  void translate_property() {
    const size_t end = rest_.find('}');
    if (rest_.size() < 3 || rest_[2] != '{' || end == std::string_view::npos)
      refuse("a property without its name in braces");
    const std::string_view name = rest_.substr(3, end - 3);
    if (name.empty() || !std::all_of(name.begin(), name.end(),
                                     [](char c) { return is_ascii_letter(c) || c == '_'; }))
      refuse("the property '" + std::string(name.substr(0, 40)) + "'");
    const std::string_view newer = name == "L"   ? kLettersSinceUnicode14
                                   : name == "N" ? kNumbersSinceUnicode14
                                                 : std::string_view();
    if (newer.empty()) return copy(end + 1);
    // A property at both ends, as in kSpaces: a '-' of the pattern beside it makes no range with
    // these.
    const std::string property = "\\p{" + std::string(name) + "}";
    emit_class(rest_[1] == 'P', property + std::string(newer) + property);
    drop(end + 1);
  }

  void emit_class(bool negated, std::string_view members) {
    if (in_class_) {
      if (negated) refuse("\\S, \\P{L} or \\P{N} in a class");
      out_ += members;
      return;
    }
    out_ += negated ? "[^" : "[";
    out_ += members;
    out_ += ']';
  }

  void copy(size_t length) {
    out_ += rest_.substr(0, length);
    drop(length);
  }
  void drop(size_t length) { rest_.remove_prefix(length); }

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorCode::kUnsupported, {.what = "the split pattern uses " + utf8_lossy(what) +
                                                  ", which laos does not read",
                                          .where = where_,
                                          .fix = "use a Qwen2 or Qwen3 tokenizer"});
  }

  std::string_view rest_;
  const std::string& where_;
  std::string out_;
  bool in_class_ = false;
};

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer = {};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

struct Free {
  void operator()(pcre2_code* p) const noexcept { pcre2_code_free(p); }
  void operator()(pcre2_match_context* p) const noexcept { pcre2_match_context_free(p); }
  void operator()(pcre2_match_data* p) const noexcept { pcre2_match_data_free(p); }
};

}  // namespace

struct SplitRegex::Compiled {
  std::unique_ptr<pcre2_code, Free> code;
  std::string where;
};

SplitRegex::SplitRegex(std::string_view pattern, const std::string& where)
    : compiled_(std::make_unique<Compiled>()) {
  if (pattern.size() > kMaxPatternBytes)
    throw Error(ErrorCode::kUnsupported,
                {.what = "the split pattern has " + std::to_string(pattern.size()) + " bytes",
                 .where = where,
                 .fix = "use a pattern of at most " + std::to_string(kMaxPatternBytes) + " bytes"});
  const std::string translated = Translator(pattern, where).translate();
  int code = 0;
  size_t offset = 0;
  compiled_->where = where;
  compiled_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                      translated.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED,
                                      &code, &offset, nullptr));
  if (!compiled_->code)
    throw Error(ErrorCode::kUnsupported,
                {.what = "the split pattern does not compile: " + pcre2_message(code),
                 .where = where,
                 .fix = "use a Qwen2 or Qwen3 tokenizer"});
  // Without a just-in-time compiler on this machine, PCRE2 interprets: same result, slower.
  pcre2_jit_compile(compiled_->code.get(), PCRE2_JIT_COMPLETE);
}

SplitRegex::~SplitRegex() = default;
SplitRegex::SplitRegex(SplitRegex&&) noexcept = default;
SplitRegex& SplitRegex::operator=(SplitRegex&&) noexcept = default;

struct SplitRegex::Pieces::State {
  const Compiled& compiled;
  std::string_view text;
  std::unique_ptr<pcre2_match_data, Free> match;
  size_t done = 0;                                 // text before it has been handed out
  size_t search = 0;                               // where the next match may begin
  std::optional<std::pair<size_t, size_t>> found;  // a match that waits behind a gap
  std::unique_ptr<pcre2_match_context, Free> limits;
  size_t budget;  // steps left for costly matches

  // What pcre2_match gives at `search`. PCRE2 counts the steps from one place of a text only, which
  // is why the pattern is anchored, and does not say how many they were: a match that reaches its
  // limit begins again with a higher one, which is charged.
  int match_here() {
    for (size_t limit = kFreeSteps;; limit *= 8) {
      if (limit > kFreeSteps) {
        if (limit > budget) return PCRE2_ERROR_MATCHLIMIT;
        budget -= limit;
      }
      pcre2_set_match_limit(limits.get(), static_cast<uint32_t>(std::min<size_t>(
                                              limit, std::numeric_limits<uint32_t>::max())));
      const int rank =
          pcre2_match(compiled.code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                      search, PCRE2_NO_UTF_CHECK, match.get(), limits.get());
      if (rank != PCRE2_ERROR_MATCHLIMIT) return rank;
    }
  }
};

SplitRegex::Pieces::Pieces(const SplitRegex& regex, std::string_view text)
    : state_(
          new State{*regex.compiled_, text,
                    std::unique_ptr<pcre2_match_data, Free>(pcre2_match_data_create(1, nullptr)), 0,
                    0, std::nullopt,
                    std::unique_ptr<pcre2_match_context, Free>(pcre2_match_context_create(nullptr)),
                    std::max(kLeastBudget, kStepsPerByte * text.size())}) {
  LAOS_ASSERT(state_->match != nullptr && state_->limits != nullptr);
  pcre2_set_heap_limit(state_->limits.get(), kHeapLimitKiB);
}

SplitRegex::Pieces::~Pieces() = default;

bool SplitRegex::Pieces::next(std::string_view& piece) {
  State& s = *state_;
  const auto hand_out = [&](size_t end) {
    piece = s.text.substr(s.done, end - s.done);
    s.done = end;
    return true;
  };
  if (s.found) {
    const size_t end = s.found->second;
    s.found.reset();
    if (end > s.done) return hand_out(end);
  }
  while (s.search < s.text.size()) {
    const size_t next = s.search + utf8_step(s.text.substr(s.search)).length;
    const int rank = s.match_here();
    if (rank == PCRE2_ERROR_NOMATCH) {
      s.search = next;
      continue;
    }
    // Rank 0 means only that there are groups beyond the one pair of offsets asked for.
    if (rank < 0)
      throw Error(ErrorCode::kUnsupported,
                  {.what = "the split pattern is too costly on this text: " + pcre2_message(rank),
                   .where = s.compiled.where,
                   .fix = "use a Qwen2 or Qwen3 tokenizer"});
    const size_t* offsets = pcre2_get_ovector_pointer(s.match.get());
    const size_t begin = offsets[0];
    const size_t end = offsets[1];
    // A match of nothing is a cut, and the search goes on one character further.
    s.search = end > begin ? end : next;
    if (begin > s.done) {
      s.found = {begin, end};
      return hand_out(begin);
    }
    if (end > s.done) return hand_out(end);
  }
  if (s.done == s.text.size()) return false;
  return hand_out(s.text.size());
}

}  // namespace laos::hf
