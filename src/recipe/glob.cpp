#include "recipe/glob.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <utility>

#include "core/error.h"

namespace laos::recipe {
namespace {

// Patterns of recipes have at most 200 characters; the limit keeps the recursion of callers who
// pass anything else within the stack.
constexpr int kMaxBraceDepth = 200;

// ------------------------------------------------------------------------------------------ braces

class BraceExpander {
 public:
  explicit BraceExpander(std::string_view pattern)
      : pattern_(pattern), partner_(pattern.size(), kNone) {
    find_partners();
  }

  std::vector<std::string> expand() { return expand_range(0, pattern_.size(), 0); }

 private:
  static constexpr size_t kNone = static_cast<size_t>(-1);

  // Braces are paired once, up front: trying an open brace again after it turned out to have no
  // partner would take time exponential in the number of open braces.
  void find_partners() {
    std::vector<size_t> open;
    for (size_t i = 0; i < pattern_.size(); ++i) {
      const bool opens_nothing =
          pattern_[i] == '$' && i + 1 < pattern_.size() && pattern_[i + 1] == '{';
      if (pattern_[i] == '\\' || opens_nothing) {
        ++i;
      } else if (pattern_[i] == '{') {
        open.push_back(i);
      } else if (pattern_[i] == '}' && !open.empty()) {
        partner_[open.back()] = i;
        open.pop_back();
      }
    }
  }

  [[noreturn]] void refuse() const {
    throw Error(
        ErrorCode::kRecipe,
        {.what = "the pattern `" + std::string(pattern_.substr(0, 200)) +
                 "` expands to more than " + std::to_string(kMaxAlternatives) + " alternatives",
         .where = "",
         .fix = "use fewer or shorter braces, or a `*` in their place"});
  }

  // Every alternative of `heads` followed by every one of `tails`.
  std::vector<std::string> product(const std::vector<std::string>& heads,
                                   const std::vector<std::string>& tails) const {
    if (heads.size() * tails.size() > kMaxAlternatives) refuse();
    std::vector<std::string> all;
    all.reserve(heads.size() * tails.size());
    for (const std::string& head : heads) {
      for (const std::string& tail : tails) all.push_back(head + tail);
    }
    return all;
  }

  std::vector<std::string> expand_range(size_t begin, size_t end, int depth) {
    if (depth > kMaxBraceDepth) refuse();
    std::vector<std::string> all = {""};
    size_t literal_begin = begin;
    const auto flush_literal = [&](size_t literal_end) {
      const std::string_view literal = pattern_.substr(literal_begin, literal_end - literal_begin);
      for (std::string& alternative : all) alternative += literal;
    };
    for (size_t i = begin; i < end; ++i) {
      if (pattern_[i] == '\\') {
        ++i;
      } else if (pattern_[i] == '{' && partner_[i] != kNone) {
        flush_literal(i);
        all = product(all, expand_group(i, depth));
        i = partner_[i];
        literal_begin = i + 1;
      }
    }
    flush_literal(end);
    return all;
  }

  // The alternatives of the braces that open at `open`.
  std::vector<std::string> expand_group(size_t open, int depth) {
    const size_t close = partner_[open];
    if (auto sequence = expand_sequence(pattern_.substr(open + 1, close - open - 1)))
      return *sequence;

    std::vector<size_t> item_ends;
    for (size_t i = open + 1; i < close; ++i) {
      if (pattern_[i] == '\\') {
        ++i;
      } else if (pattern_[i] == '{' && partner_[i] != kNone) {
        i = partner_[i];
      } else if (pattern_[i] == ',') {
        item_ends.push_back(i);
      }
    }
    item_ends.push_back(close);

    if (item_ends.size() == 1) {  // {3} and {} are literal, but what is inside may expand
      std::vector<std::string> all = expand_range(open + 1, close, depth + 1);
      for (std::string& alternative : all) alternative = "{" + alternative + "}";
      return all;
    }
    std::vector<std::string> all;
    size_t item_begin = open + 1;
    for (const size_t item_end : item_ends) {
      for (std::string& alternative : expand_range(item_begin, item_end, depth + 1)) {
        if (all.size() == kMaxAlternatives) refuse();
        all.push_back(std::move(alternative));
      }
      item_begin = item_end + 1;
    }
    return all;
  }

  struct Bound {
    int64_t value = 0;
    size_t width = 0;  // to pad to; 0: no zero in front
  };

  static std::optional<Bound> parse_number(std::string_view text) {
    const size_t sign = text.starts_with('-') ? 1 : 0;
    // Nine digits are far beyond any layer count and keep the arithmetic below free of overflow.
    if (text.size() <= sign || text.size() - sign > 9) return std::nullopt;
    Bound bound;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bound.value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    if (text.size() - sign > 1 && text[sign] == '0') bound.width = text.size();
    return bound;
  }

  static std::optional<char> parse_letter(std::string_view text) {
    if (text.size() != 1) return std::nullopt;
    const char c = text[0];
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return c;
    return std::nullopt;
  }

  static std::string padded(int64_t value, size_t width) {
    std::string digits = std::to_string(std::abs(value));
    const size_t sign = value < 0 ? 1 : 0;
    if (digits.size() + sign < width) digits.insert(0, width - sign - digits.size(), '0');
    return value < 0 ? "-" + digits : digits;
  }

  // first..last or first..last..step, numbers or letters; nullopt for anything else.
  std::optional<std::vector<std::string>> expand_sequence(std::string_view body) const {
    const size_t dots = body.find("..");
    if (dots == std::string_view::npos) return std::nullopt;
    const std::string_view first_text = body.substr(0, dots);
    std::string_view last_text = body.substr(dots + 2);
    int64_t step = 1;
    if (const size_t more = last_text.find(".."); more != std::string_view::npos) {
      const auto parsed = parse_number(last_text.substr(more + 2));
      if (!parsed) return std::nullopt;
      step = std::max<int64_t>(
          1, std::abs(parsed->value));  // 0 means 1, the sign is that of last - first
      last_text = last_text.substr(0, more);
    }

    const auto first = parse_number(first_text), last = parse_number(last_text);
    const auto first_letter = parse_letter(first_text), last_letter = parse_letter(last_text);
    if (!(first && last) && !(first_letter && last_letter)) return std::nullopt;
    const int64_t from = first ? first->value : *first_letter;
    const int64_t to = first ? last->value : *last_letter;
    const size_t width = first ? std::max(first->width, last->width) : 0;

    const int64_t count = std::abs(to - from) / step + 1;
    if (count > static_cast<int64_t>(kMaxAlternatives)) refuse();
    std::vector<std::string> all;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t value = to >= from ? from + i * step : from - i * step;
      if (first) {
        all.push_back(padded(value, width));
      } else if (value == '\\') {
        all.push_back("\\\\");  // between Z and a
      } else {
        all.push_back(std::string(1, static_cast<char>(value)));
      }
    }
    return all;
  }

  std::string_view pattern_;
  std::vector<size_t> partner_;  // of an open brace, its closing one
};

// ---------------------------------------------------------------------------------------- matching

struct Character {
  uint32_t code = 0;
  size_t num_bytes = 1;
};

// The UTF-8 character at `i`; a byte that begins none stands for itself.
Character character_at(std::string_view text, size_t i) noexcept {
  const auto byte = [&](size_t k) { return static_cast<uint8_t>(text[k]); };
  const uint8_t lead = byte(i);
  const size_t num_bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  if (num_bytes == 1 || i + num_bytes > text.size()) return {lead, 1};
  uint32_t code = lead & (0x7Fu >> num_bytes);
  for (size_t k = 1; k < num_bytes; ++k) {
    if ((byte(i + k) & 0xC0) != 0x80) return {lead, 1};
    code = code << 6 | (byte(i + k) & 0x3F);
  }
  return {code, num_bytes};
}

struct ClassResult {
  size_t end = 0;  // past the closing bracket; 0: no class begins here, the bracket is a literal
  bool contains = false;
};

ClassResult match_class(std::string_view pattern, size_t open, uint32_t code) noexcept {
  size_t i = open + 1;
  const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
  if (negated) ++i;
  const auto next = [&]() {  // one member of the class, escape resolved
    if (pattern[i] == '\\' && i + 1 < pattern.size()) ++i;
    const Character c = character_at(pattern, i);
    i += c.num_bytes;
    return c.code;
  };
  bool contains = false;
  for (bool first = true; i < pattern.size(); first = false) {
    if (pattern[i] == ']' && !first) return {.end = i + 1, .contains = contains != negated};
    const uint32_t low = next();
    uint32_t high = low;
    if (i + 1 < pattern.size() && pattern[i] == '-' && pattern[i + 1] != ']') {
      ++i;
      high = next();
    }
    contains = contains || (code >= low && code <= high);
  }
  return {};
}

bool is_special(char c) noexcept { return c == '*' || c == '?' || c == '[' || c == '\\'; }

// Past the one pattern element at `p` if it matches `character`, or 0. `*` is not such an element.
size_t match_one(std::string_view pattern, size_t p, const Character& character) noexcept {
  if (pattern[p] == '?') return p + 1;
  if (pattern[p] == '[') {
    const ClassResult result = match_class(pattern, p, character.code);
    if (result.end > 0) return result.contains ? result.end : 0;
  }
  if (pattern[p] == '\\' && p + 1 < pattern.size()) ++p;
  const Character expected = character_at(pattern, p);
  return expected.code == character.code && expected.num_bytes == character.num_bytes
             ? p + expected.num_bytes
             : 0;
}

}  // namespace

std::vector<std::string> expand_braces(std::string_view pattern) {
  if (pattern.find('{') == std::string_view::npos) return {std::string(pattern)};
  return BraceExpander(pattern).expand();
}

bool matches_glob(std::string_view expanded, std::string_view name) noexcept {
  if (name.starts_with('.') && !expanded.starts_with('.') && !expanded.starts_with("\\."))
    return false;

  constexpr size_t kNoStar = static_cast<size_t>(-1);
  size_t p = 0, n = 0;
  size_t after_star = kNoStar, star_end = 0;  // where to go on when what follows the last `*` fails
  while (n < name.size()) {
    if (p < expanded.size() && expanded[p] == '*') {
      after_star = ++p;
      star_end = n;
      continue;
    }
    // Most of a name is letters that stand for themselves.
    if (p < expanded.size() && expanded[p] == name[n] && !is_special(name[n])) {
      ++p;
      ++n;
      continue;
    }
    const Character character = character_at(name, n);
    if (const size_t next = p < expanded.size() ? match_one(expanded, p, character) : 0; next > 0) {
      p = next;
      n += character.num_bytes;
      continue;
    }
    if (after_star == kNoStar) return false;
    star_end += character_at(name, star_end).num_bytes;  // let the last `*` take one more character
    n = star_end;
    p = after_star;
  }
  while (p < expanded.size() && expanded[p] == '*') ++p;
  return p == expanded.size();
}

bool matches(std::string_view pattern, std::string_view name) {
  if (pattern == name) return true;
  const std::vector<std::string> alternatives = expand_braces(pattern);
  return std::any_of(alternatives.begin(), alternatives.end(),
                     [&](const std::string& expanded) { return matches_glob(expanded, name); });
}

}  // namespace laos::recipe
