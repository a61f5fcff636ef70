#include "hf/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <new>
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
// The general categories that patterns may name, and what Unicode 14 (PCRE2 10.42) lacks of each
// and Unicode 16 has: assigned for ever, so naming them does no harm where the library knows them.
struct Category {
  std::string_view name;
  std::string_view since_unicode_14;
};
constexpr Category kCategories[] = {
    {"Lt", ""},
    {"Me", ""},
    {"Nl", ""},
    {"Pc", ""},
    {"Ps", ""},
    {"Pe", ""},
    {"Pi", ""},
    {"Pf", ""},
    {"Sc", ""},
    {"Sk", ""},
    {"Zs", ""},
    {"Zl", ""},
    {"Zp", ""},
    {"Cc", ""},
    {"Cf", R"(\x{13439}-\x{1343f})"},
    {"Ll", R"(\x{1c8a}\x{a7cd}\x{a7db}\x{10d70}-\x{10d85}\x{1df25}-\x{1df2a})"},
    {"Lm", R"(\x{10d4e}\x{10d6f}\x{16d40}-\x{16d42}\x{16d6b}\x{16d6c}\x{1e030}-\x{1e06d})"
           R"(\x{1e4eb})"},
    {"Lo", R"(\x{105c0}-\x{105f3}\x{10d4a}-\x{10d4d}\x{10d4f}\x{10ec2}-\x{10ec4}\x{1123f})"
           R"(\x{11240}\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7})"
           R"(\x{113d1}\x{113d3}\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10})"
           R"(\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446}\x{13460}-\x{143fa})"
           R"(\x{16100}-\x{1611d}\x{16d43}-\x{16d6a}\x{18cff}\x{1b132}\x{1b155})"
           R"(\x{1e4d0}-\x{1e4ea}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d})"
           R"(\x{31350}-\x{323af})"},
    {"Lu", R"(\x{1c89}\x{a7cb}\x{a7cc}\x{a7da}\x{a7dc}\x{10d50}-\x{10d65})"},
    {"Mc", R"(\x{cf3}\x{113b8}-\x{113ba}\x{113c2}\x{113c5}\x{113c7}-\x{113ca}\x{113cc})"
           R"(\x{113cd}\x{113cf}\x{11f03}\x{11f34}\x{11f35}\x{11f3e}\x{11f3f}\x{11f41})"
           R"(\x{1612a}-\x{1612c})"},
    {"Mn", R"(\x{897}\x{ece}\x{10d69}-\x{10d6d}\x{10efc}-\x{10eff}\x{11241}\x{113bb}-\x{113c0})"
           R"(\x{113ce}\x{113d0}\x{113d2}\x{113e1}\x{113e2}\x{11f00}\x{11f01})"
           R"(\x{11f36}-\x{11f3a}\x{11f40}\x{11f42}\x{11f5a}\x{13440}\x{13447}-\x{13455})"
           R"(\x{1611e}-\x{16129}\x{1612d}-\x{1612f}\x{1e08f}\x{1e4ec}-\x{1e4ef}\x{1e5ee})"
           R"(\x{1e5ef})"},
    {"Nd", R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
           R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1e4f0}-\x{1e4f9})"
           R"(\x{1e5f1}-\x{1e5fa})"},
    {"No", R"(\x{1d2c0}-\x{1d2d3})"},
    {"Pd", R"(\x{10d6e})"},
    {"Po", R"(\x{1b4e}\x{1b4f}\x{1b7f}\x{113d4}\x{113d5}\x{113d7}\x{113d8}\x{11b00}-\x{11b09})"
           R"(\x{11be1}\x{11f43}-\x{11f4f}\x{16d6d}-\x{16d6f}\x{1e5ff})"},
    {"Sm", R"(\x{10d8e}\x{10d8f})"},
    {"So", R"(\x{2427}-\x{2429}\x{2ffc}-\x{2fff}\x{31e4}\x{31e5}\x{31ef}\x{1cc00}-\x{1ccef})"
           R"(\x{1cd00}-\x{1ceb3}\x{1f6dc}\x{1f774}-\x{1f776}\x{1f77b}-\x{1f77f}\x{1f7d9})"
           R"(\x{1f8b2}-\x{1f8bb}\x{1f8c0}\x{1f8c1}\x{1fa75}-\x{1fa77}\x{1fa87}-\x{1fa89})"
           R"(\x{1fa8f}\x{1faad}-\x{1faaf}\x{1fabb}-\x{1fabf}\x{1fac6}\x{1face}\x{1facf})"
           R"(\x{1fada}-\x{1fadc}\x{1fadf}\x{1fae8}\x{1fae9}\x{1faf7}\x{1faf8})"
           R"(\x{1fbcb}-\x{1fbef})"},
};

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
    if (c == 'd' || c == 'D') {
      emit_category(c == 'D', "Nd");
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
    if (name.empty()) refuse("a property without a name");
    emit_category(rest_[1] == 'P', name);
    drop(end + 1);
  }

  // `name` is a category's or, of one letter, that of a group of them.
  void emit_category(bool negated, std::string_view name) {
    std::string newer;
    bool known = false;
    for (const Category& category : kCategories)
      if (category.name.starts_with(name) && name != "C") {  // C has the unassigned, too
        known = true;
        newer += category.since_unicode_14;
      }
    if (!known) refuse("the property '" + std::string(name.substr(0, 40)) + "'");
    // A property at both ends, as in kSpaces: a '-' of the pattern beside it makes no range with
    // these.
    const std::string property = "\\p{" + std::string(name) + "}";
    emit_class(negated, newer.empty() ? property : property + newer + property);
  }

  void emit_class(bool negated, std::string_view members) {
    if (in_class_) {
      if (negated) refuse("\\S, \\D or \\P{...} in a class");
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
                                          .fix = "use a tokenizer with another pattern"});
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
  void operator()(pcre2_compile_context* p) const noexcept { pcre2_compile_context_free(p); }
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
  // Ruby's ^ and $ stand at lines, which \n alone ends; that is also what its . does not take.
  const std::unique_ptr<pcre2_compile_context, Free> context(pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  compiled_->code.reset(pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_MULTILINE, &code, &offset, context.get()));
  if (!compiled_->code && code == PCRE2_ERROR_HEAP_FAILED) throw std::bad_alloc();
  if (!compiled_->code)
    throw Error(ErrorCode::kUnsupported,
                {.what = "the split pattern does not compile: " + pcre2_message(code),
                 .where = where,
                 .fix = "use a tokenizer with another pattern"});
  // Without a just-in-time compiler on this machine, PCRE2 interprets: same result, slower.
  pcre2_jit_compile(compiled_->code.get(), PCRE2_JIT_COMPLETE);
}

std::string SplitRegex::quote(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (is_ascii_punctuation(c)) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

SplitRegex::~SplitRegex() = default;
SplitRegex::SplitRegex(SplitRegex&&) noexcept = default;
SplitRegex& SplitRegex::operator=(SplitRegex&&) noexcept = default;

struct SplitRegex::Scratch::State {
  std::unique_ptr<pcre2_match_data, Free> match;
  std::unique_ptr<pcre2_match_context, Free> limits;
  size_t budget;  // steps left for costly matches
};

SplitRegex::Scratch::Scratch(size_t bytes, size_t num_regexes)
    : state_(
          new State{std::unique_ptr<pcre2_match_data, Free>(pcre2_match_data_create(1, nullptr)),
                    std::unique_ptr<pcre2_match_context, Free>(pcre2_match_context_create(nullptr)),
                    std::max(kLeastBudget, kStepsPerByte * bytes * num_regexes)}) {
  if (!state_->match || !state_->limits) throw std::bad_alloc();
  pcre2_set_heap_limit(state_->limits.get(), kHeapLimitKiB);
}

SplitRegex::Scratch::~Scratch() = default;

// What pcre2_match gives at search_. PCRE2 counts the steps from one place of a text only, which is
// why the pattern is anchored, and does not say how many they were: a match that reaches its limit
// begins again with a higher one, which is charged.
int SplitRegex::Pieces::match_here() {
  Scratch::State& s = *scratch_.state_;
  for (size_t limit = kFreeSteps;; limit *= 8) {
    if (limit > kFreeSteps) {
      if (limit > s.budget) return PCRE2_ERROR_MATCHLIMIT;
      s.budget -= limit;
    }
    pcre2_set_match_limit(s.limits.get(), static_cast<uint32_t>(std::min<size_t>(
                                              limit, std::numeric_limits<uint32_t>::max())));
    const int rank =
        pcre2_match(regex_.compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(text_.data()),
                    text_.size(), search_, PCRE2_NO_UTF_CHECK, s.match.get(), s.limits.get());
    if (rank == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
    if (rank != PCRE2_ERROR_MATCHLIMIT) return rank;
  }
}

bool SplitRegex::Pieces::next(std::string_view& piece) {
  const auto hand_out = [&](size_t end) {
    piece = text_.substr(done_, end - done_);
    done_ = end;
    return true;
  };
  if (found_) {
    const size_t end = found_->second;
    found_.reset();
    if (end > done_) return hand_out(end);
  }
  while (search_ < text_.size()) {
    const size_t next = search_ + utf8_step(text_.substr(search_)).length;
    const int rank = match_here();
    if (rank == PCRE2_ERROR_NOMATCH) {
      search_ = next;
      continue;
    }
    // Rank 0 means only that there are groups beyond the one pair of offsets asked for.
    if (rank < 0)
      throw Error(ErrorCode::kUnsupported,
                  {.what = "the split pattern is too costly on this text: " + pcre2_message(rank),
                   .where = regex_.compiled_->where,
                   .fix = "use a tokenizer with another pattern"});
    const size_t* offsets = pcre2_get_ovector_pointer(scratch_.state_->match.get());
    const size_t begin = offsets[0];
    const size_t end = offsets[1];
    // A match of nothing is a cut, and the search goes on one character further.
    search_ = end > begin ? end : next;
    if (begin > done_) {
      found_ = {begin, end};
      return hand_out(begin);
    }
    if (end > done_) return hand_out(end);
  }
  if (done_ == text_.size()) return false;
  return hand_out(text_.size());
}

}  // namespace laos::hf
