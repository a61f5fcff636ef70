#include "recipe/yaml_scalar.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

namespace laos::recipe {
namespace {

template <size_t N>
bool is_one_of(std::string_view text, const std::array<std::string_view, N>& words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

constexpr std::array<std::string_view, 9> kTrue = {"yes",  "Yes", "YES", "true", "True",
                                                   "TRUE", "on",  "On",  "ON"};
constexpr std::array<std::string_view, 9> kFalse = {"no",    "No",  "NO",  "false", "False",
                                                    "FALSE", "off", "Off", "OFF"};
constexpr std::array<std::string_view, 5> kNull = {"", "~", "null", "Null", "NULL"};

// Reads a scalar from the front.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : rest_(text) {}

  bool done() const { return rest_.empty(); }
  bool starts_with(char c) const { return rest_.starts_with(c); }
  bool take(char c) {
    if (!rest_.starts_with(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }
  bool take(std::string_view prefix) {
    if (!rest_.starts_with(prefix)) return false;
    rest_.remove_prefix(prefix.size());
    return true;
  }
  // The digits of `base` in front, underscores between them dropped.
  std::string digits(int base, bool underscores = true) {
    std::string taken;
    while (!rest_.empty() && (is_digit(rest_[0], base) || (underscores && rest_[0] == '_'))) {
      if (rest_[0] != '_') taken += rest_[0];
      rest_.remove_prefix(1);
    }
    return taken;
  }

 private:
  static bool is_digit(char c, int base) {
    if (c >= '0' && c <= '9') return c - '0' < base;
    return base == 16 && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'));
  }

  std::string_view rest_;
};

Scalar float_scalar(double value) { return {.kind = ScalarKind::kFloat, .float_value = value}; }

Scalar int_scalar(bool negative, const std::string& digits, int base) {
  int64_t value = 0;
  const std::string text = (negative ? "-" : "") + digits;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error == std::errc::result_out_of_range) {
    const double huge = std::numeric_limits<double>::max();
    return float_scalar(negative ? -huge : huge);
  }
  return {.kind = ScalarKind::kInt, .int_value = value};
}

double to_double(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) return std::numeric_limits<double>::infinity();
  return value;
}

// 1:30 or 1:30:05.5, base sixty; `first` are the digits before the first colon.
std::optional<Scalar> resolve_sexagesimal(Cursor cursor, bool negative, const std::string& first) {
  double value = to_double(first);
  bool has_parts = false;
  while (cursor.take(':')) {
    has_parts = true;
    const std::string part = cursor.digits(10, /*underscores=*/false);
    if (part.empty() || part.size() > 2 || (part.size() == 2 && part[0] > '5')) return std::nullopt;
    value = value * 60 + to_double(part);
  }
  const bool is_float = cursor.take('.');
  if (is_float) value += to_double("0." + cursor.digits(10) + "0");
  if (!has_parts || !cursor.done() || (!is_float && first[0] == '0')) return std::nullopt;
  if (negative) value = -value;
  if (is_float || std::abs(value) > 9e15)
    return float_scalar(value);  // beyond: not exact in a double
  return Scalar{.kind = ScalarKind::kInt, .int_value = static_cast<int64_t>(value)};
}

std::optional<Scalar> resolve_number(std::string_view text) {
  Cursor cursor(text);
  const bool negative = cursor.take('-');
  const bool has_sign = negative || cursor.take('+');
  Cursor unsigned_part = cursor;

  for (const std::string_view infinity : {".inf", ".Inf", ".INF"}) {
    if (cursor.take(infinity) && cursor.done()) {
      const double value = std::numeric_limits<double>::infinity();
      return float_scalar(negative ? -value : value);
    }
  }
  if (text == ".nan" || text == ".NaN" || text == ".NAN") {
    return float_scalar(std::numeric_limits<double>::quiet_NaN());
  }
  for (const auto& [prefix, base] : {std::pair("0b", 2), std::pair("0x", 16), std::pair("0", 8)}) {
    Cursor based = unsigned_part;
    if (!based.take(std::string_view(prefix))) continue;
    const std::string digits = based.digits(base);
    if (!digits.empty() && based.done()) return int_scalar(negative, digits, base);
  }

  cursor = unsigned_part;
  if (cursor.starts_with('_')) return std::nullopt;
  const std::string whole = cursor.digits(10);
  if (!whole.empty() && cursor.done() && (whole[0] != '0' || whole == "0")) {
    return int_scalar(negative, whole, 10);
  }
  if (!whole.empty()) {
    if (const auto sexagesimal = resolve_sexagesimal(cursor, negative, whole)) return sexagesimal;
  }
  if (!cursor.take('.')) return std::nullopt;
  if (whole.empty() && cursor.starts_with('_')) return std::nullopt;
  const std::string fraction = cursor.digits(10);
  if (whole.empty() && (fraction.empty() || has_sign)) return std::nullopt;
  std::string decimal =
      (negative ? "-" : "") + (whole.empty() ? "0" : whole) + "." + fraction + "0";
  if (cursor.take('e') || cursor.take('E')) {
    const bool negative_exponent = cursor.take('-');
    if (!negative_exponent && !cursor.take('+')) return std::nullopt;
    const std::string exponent = cursor.digits(10, /*underscores=*/false);
    if (exponent.empty()) return std::nullopt;
    decimal += (negative_exponent ? "e-" : "e") + exponent;
  }
  if (!cursor.done()) return std::nullopt;
  return float_scalar(to_double(decimal));
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

}  // namespace

Scalar resolve_plain_scalar(std::string_view text) {
  if (is_one_of(text, kNull)) return {.kind = ScalarKind::kNull};
  if (is_one_of(text, kTrue)) return {.kind = ScalarKind::kBool, .bool_value = true};
  if (is_one_of(text, kFalse)) return {.kind = ScalarKind::kBool, .bool_value = false};
  return resolve_number(text).value_or(Scalar{});
}

std::optional<double> number_from_text(std::string_view text) {
  text = trim(text);
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<int64_t> integer_from_text(std::string_view text) {
  text = trim(text);
  if (text.starts_with('+')) text.remove_prefix(1);
  if (const size_t dot = text.find('.'); dot != std::string_view::npos) {  // "20.0" is twenty
    if (text.find_first_not_of('0', dot + 1) != std::string_view::npos) return std::nullopt;
    text = text.substr(0, dot);
  }
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<bool> bool_from_text(std::string_view text) {
  std::string word(text);
  std::transform(word.begin(), word.end(), word.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  constexpr std::array<std::string_view, 6> kYes = {"1", "t", "true", "y", "yes", "on"};
  constexpr std::array<std::string_view, 6> kNo = {"0", "f", "false", "n", "no", "off"};
  if (is_one_of(word, kYes)) return true;
  if (is_one_of(word, kNo)) return false;
  return std::nullopt;
}

}  // namespace laos::recipe
