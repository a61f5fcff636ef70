// What a plain scalar means in YAML 1.1 (yaml.org/type), the dialect of modelslim_v1 recipes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace laos::recipe {

enum class ScalarKind { kNull, kBool, kInt, kFloat, kText };

// A scalar and its value; of the three value fields only the one of `kind` counts.
struct Scalar {
  ScalarKind kind = ScalarKind::kText;
  bool bool_value = false;
  int64_t int_value = 0;
  double float_value = 0;
};

// The meaning of a scalar written without quotes. As in YAML 1.1: yes/no/on/off are booleans, 010
// is eight, 1_000 a thousand, 1:30 ninety, 1.0e-5 a number, but 1e-5 (no dot) and 1.0e5 (no sign)
// are text. An integer beyond int64 is a kFloat. Dates stay text.
Scalar resolve_plain_scalar(std::string_view text);

// Text as a number or a truth value, for schemas that are lenient about quotes: decimal notation
// with surrounding blanks; 0/1, t/f, y/n, true/false, yes/no, on/off in any case. nullopt when it
// is neither.
std::optional<double> number_from_text(std::string_view text);
std::optional<int64_t> integer_from_text(std::string_view text);
std::optional<bool> bool_from_text(std::string_view text);

}  // namespace laos::recipe
