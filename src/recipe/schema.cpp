#include "recipe/schema.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/utf8.h"
#include "core/words.h"

namespace laos::recipe {

std::string Location::text() const {
  std::string at = file;
  if (line > 0) at += ":" + std::to_string(line) + ":" + std::to_string(column);
  return key.empty() ? at : at + " " + key;
}

// ------------------------------------------------------------------------------------------ Report

Location Report::locate(const Value& value) const {
  return {.file = file_, .line = value.node->line, .column = value.node->column, .key = value.key};
}

void Report::problem(const Location& at, std::string what, std::string fix) {
  const std::string place = std::to_string(at.line) + ":" + std::to_string(at.column) + " " + what;
  if (!seen_.insert(place).second) return;
  problem({.what = std::move(what), .where = at.text(), .fix = std::move(fix)});
}

void Report::problem(Problem found) {
  constexpr size_t kMaxListed = 100;
  if (problems_.size() < kMaxListed) {
    problems_.push_back(std::move(found));
  } else {
    ++num_unlisted_;
  }
}

void Report::warn(const Value& at, const std::string& text) {
  const std::string place =
      std::to_string(at.node->line) + ":" + std::to_string(at.node->column) + " " + text;
  if (seen_.insert(place).second) warnings_.push_back(locate(at).text() + ": " + text);
}

void Report::throw_if_any() const {
  if (problems_.empty()) return;
  std::vector<Problem> all = problems_;
  if (num_unlisted_ > 0) {
    all.push_back({.what = std::to_string(num_unlisted_) + " more problems are not listed",
                   .where = file_,
                   .fix = "repair those above first"});
  }
  throw Error(ErrorCode::kRecipe, std::move(all));
}

// ---------------------------------------------------------------------------------------- messages

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string did_you_mean(const std::string& name, const std::vector<std::string>& names) {
  if (name.size() > 200) return "";  // no typing error, and comparing it would take long
  const std::string nearest = nearest_name(name, names);
  return nearest.empty() ? "" : "did you mean `" + nearest + "`? ";
}

namespace {

// "the list", "the number 5", "the text `abc`": what stands where something else was expected.
std::string describe(const DocumentNode& node) {
  if (node.is_map()) return "a mapping";
  if (node.is_list()) return "a list";
  const std::string text = "`" + printable(node.text) + "`";
  switch (node.scalar.kind) {
    case ScalarKind::kNull:
      return "nothing";
    case ScalarKind::kBool:
      return "the truth value " + text;
    case ScalarKind::kInt:
    case ScalarKind::kFloat:
      return "the number " + text;
    case ScalarKind::kText:
      break;
  }
  return "the text " + text;
}

std::string last_step(const std::string& key) {
  const size_t dot = key.rfind('.');
  return "`" + (dot == std::string::npos ? key : key.substr(dot + 1)) + "`";
}

void must_be(Report& report, const Value& value, const std::string& expected,
             const std::string& fix) {
  report.problem(
      value, last_step(value.key) + " must be " + expected + ", not " + describe(*value.node), fix);
}

}  // namespace

// ----------------------------------------------------------------------------------------- readers

std::optional<int64_t> read_integer(Report& report, const Value& value, int64_t min, int64_t max) {
  const DocumentNode& node = *value.node;
  std::optional<int64_t> integer;
  if (node.kind == DocumentNode::Kind::kScalar) {
    const double real = node.scalar.float_value;
    switch (node.scalar.kind) {
      case ScalarKind::kInt:
        integer = node.scalar.int_value;
        break;
      case ScalarKind::kText:
        integer = integer_from_text(node.text);
        break;
      case ScalarKind::kFloat:
        if (std::trunc(real) == real && std::abs(real) < 9e15) integer = static_cast<int64_t>(real);
        break;
      default:
        break;
    }
  }
  if (integer && *integer >= min && *integer <= max) return integer;
  const std::string range = max == std::numeric_limits<int64_t>::max()
                                ? std::to_string(min) + " or more"
                                : "from " + std::to_string(min) + " to " + std::to_string(max);
  must_be(report, value, "a whole number " + range, "write a whole number " + range);
  return std::nullopt;
}

namespace {

std::optional<double> number_of(const DocumentNode& node) {
  if (node.kind != DocumentNode::Kind::kScalar) return std::nullopt;
  switch (node.scalar.kind) {
    case ScalarKind::kInt:
      return static_cast<double>(node.scalar.int_value);
    case ScalarKind::kFloat:
      return node.scalar.float_value;
    case ScalarKind::kText:
      return number_from_text(node.text);
    default:
      return std::nullopt;
  }
}

// The numbers 0 and 1 are truth values too.
std::optional<bool> flag_of(const DocumentNode& node) {
  if (node.kind != DocumentNode::Kind::kScalar) return std::nullopt;
  const Scalar& scalar = node.scalar;
  if (scalar.kind == ScalarKind::kBool) return scalar.bool_value;
  if (scalar.kind == ScalarKind::kText) return bool_from_text(node.text);
  if (const auto number = number_of(node); number == 0 || number == 1) return number == 1;
  return std::nullopt;
}

}  // namespace

std::optional<double> read_number(Report& report, const Value& value, double min) {
  const std::optional<double> number = number_of(*value.node);
  if (number && std::isfinite(*number) && *number >= min) return number;
  const std::string bound = std::to_string(static_cast<int64_t>(min)) + " or more";
  must_be(report, value, "a number, " + bound, "write a number, " + bound);
  return std::nullopt;
}

std::optional<bool> read_bool(Report& report, const Value& value) {
  if (const auto flag = flag_of(*value.node)) return flag;
  must_be(report, value, "true or false", "write `true` or `false`");
  return std::nullopt;
}

std::optional<double> read_share(Report& report, const Value& value, const std::string& or_else) {
  if (const auto flag = flag_of(*value.node)) return *flag ? 1 : 0;
  const std::optional<double> share = number_of(*value.node);
  if (share && *share >= 0 && *share <= 1) return share;
  must_be(report, value, "a number from 0 to 1" + or_else,
          "write a number such as 0.5, true or false" + or_else);
  return std::nullopt;
}

std::optional<std::string> read_text(Report& report, const Value& value, int64_t max_characters) {
  const DocumentNode& node = *value.node;
  if (node.kind != DocumentNode::Kind::kScalar || node.scalar.kind != ScalarKind::kText) {
    const bool is_bare_scalar = node.kind == DocumentNode::Kind::kScalar && !node.is_null();
    must_be(report, value, "text",
            is_bare_scalar ? "put it in quotes: \"" + printable(node.text) + "\"" : "write text");
    return std::nullopt;
  }
  if (const int64_t length = num_characters(node.text); length > max_characters) {
    report.problem(value,
                   last_step(value.key) + " has " + std::to_string(length) +
                       " characters, the limit is " + std::to_string(max_characters),
                   "make it shorter");
    return std::nullopt;
  }
  return node.text;
}

std::optional<std::string> read_choice(Report& report, const Value& value,
                                       const std::vector<std::string>& allowed) {
  const DocumentNode& node = *value.node;
  const bool is_scalar = node.kind == DocumentNode::Kind::kScalar;
  if (is_scalar && node.scalar.kind == ScalarKind::kText && contains(allowed, node.text)) {
    return node.text;
  }
  must_be(report, value, "one of " + listed(allowed),
          (is_scalar ? did_you_mean(node.text, allowed) : "") + "allowed: " + listed(allowed));
  return std::nullopt;
}

bool require_list(Report& report, const Value& value) {
  if (value.node->is_list()) return true;
  must_be(report, value, "a list", "write `[...]`, or one `- ` line an item");
  return false;
}

bool require_map(Report& report, const Value& value) {
  if (value.node->is_map()) return true;
  if (value.key.empty()) {
    report.problem(value, "the recipe must be a mapping, not " + describe(*value.node),
                   "begin with `apiversion: modelslim_v1`");
    return false;
  }
  must_be(report, value, "a mapping",
          value.key.ends_with(']') ? "write `key: value` lines, indented below the `-`"
                                   : "write `key: value` lines, indented below it");
  return false;
}

std::optional<std::string> read_type(Report& report, const Value& value, const std::string& kind,
                                     const std::vector<std::string>& supported,
                                     const std::vector<std::string>& other) {
  const DocumentNode* node = value.node->find("type");
  if (node == nullptr) {
    report.problem(value, "`type` is missing", "add `type: ` and one of " + listed(supported));
    return std::nullopt;
  }
  const Value type{node, value.key + ".type"};
  auto text = read_text(report, type, kMaxNameCharacters);
  if (!text) return std::nullopt;
  if (contains(supported, *text)) return text;
  if (contains(other, *text)) {
    report.problem(type, kind + " `" + *text + "` is not supported yet",
                   "remove it, or use one of " + listed(supported));
  } else {
    std::vector<std::string> all = supported;
    all.insert(all.end(), other.begin(), other.end());
    report.problem(type, "unknown " + kind + " `" + printable(*text) + "`",
                   did_you_mean(*text, all) + "supported: " + listed(supported));
  }
  return std::nullopt;
}

std::vector<std::string> read_texts(Report& report, const Value& value, int64_t max_characters) {
  std::vector<std::string> texts;
  if (!require_list(report, value)) return texts;
  for (size_t i = 0; i < value.node->items.size(); ++i) {
    if (auto text = read_text(report, value.item(i), max_characters))
      texts.push_back(std::move(*text));
  }
  return texts;
}

// --------------------------------------------------------------------------------------- MapReader

MapReader::MapReader(Report& report, Value value, const MapSchema& schema, const MapSchema* sibling)
    : report_(report), value_(std::move(value)), schema_(schema) {
  LAOS_ASSERT(value_.node->is_map());
  if (schema.open) return;
  for (const DocumentNode& key : value_.node->keys) {
    if (contains(schema.keys, key.text)) continue;
    const std::string name = printable(key.text);
    const Value at{&key, value_.key + "." + name};
    if (sibling != nullptr && contains(sibling->keys, key.text)) {
      report_.problem(at,
                      "`" + name + "` is a key of " + sibling->title + ", not of " + schema.title,
                      "allowed here: " + listed(schema.keys));
    } else {
      report_.problem(at, "unknown key `" + name + "`",
                      did_you_mean(key.text, schema.keys) + "known keys: " + listed(schema.keys));
    }
  }
}

std::optional<Value> MapReader::find(const std::string& key) const {
  LAOS_ASSERT(contains(schema_.keys, key));
  const DocumentNode* node = value_.node->find(key);
  if (node == nullptr) return std::nullopt;
  return Value{node, value_.key.empty() ? key : value_.key + "." + key};
}

std::optional<Value> MapReader::require(const std::string& key) const {
  std::optional<Value> found = find(key);
  if (found) return found;
  // A key nobody knows is probably this one misspelt; closed mappings have reported it already.
  std::vector<std::string> unknown;
  for (const DocumentNode& present : value_.node->keys) {
    if (!contains(schema_.keys, present.text) && present.text.size() <= 64)
      unknown.push_back(present.text);
  }
  const std::string nearest = nearest_name(key, unknown);
  if (!schema_.open && !nearest.empty()) return std::nullopt;
  report_.problem(value_, "`" + key + "` is missing",
                  (nearest.empty() ? "" : "is `" + printable(nearest) + "` meant to be it? ") +
                      "add `" + key + ": ...`");
  return std::nullopt;
}

void MapReader::integer(const std::string& key, int64_t min, int64_t max, int64_t& out) const {
  if (const auto value = find(key)) out = read_integer(report_, *value, min, max).value_or(out);
}

void MapReader::boolean(const std::string& key, bool& out) const {
  if (const auto value = find(key)) out = read_bool(report_, *value).value_or(out);
}

}  // namespace laos::recipe
