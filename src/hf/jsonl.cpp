#include "hf/jsonl.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"

namespace laos::hf {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxStrings = 1'000'000;  // of one list

// Follows the parser and keeps the strings that are wanted: of an object, the value of `field`;
// without a field, the items of a list.
class StringPicker : public Json::json_sax_t {
 public:
  explicit StringPicker(std::optional<std::string_view> field) : field_(field), wanted_(!field) {}

  std::vector<std::string> strings;
  std::string fault;  // why the parse ended early

  bool null() override { return value(nullptr); }
  bool boolean(bool) override { return value(nullptr); }
  bool number_integer(int64_t) override { return value(nullptr); }
  bool number_unsigned(uint64_t) override { return value(nullptr); }
  bool number_float(double, const std::string&) override { return value(nullptr); }
  bool string(std::string& text) override { return value(&text); }
  bool binary(Json::binary_t&) override { return value(nullptr); }
  bool start_object(std::size_t) override { return open(/*is_object=*/true); }
  bool start_array(std::size_t) override { return open(/*is_object=*/false); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    if (depth_ == 1) wanted_ = name == field_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return fail("malformed JSON at byte " + std::to_string(position));
  }

 private:
  // A value that is a string, or null for every other kind.
  bool value(std::string* text) {
    if (depth_ == 0) return fail_outermost();
    if (depth_ > 1 || !wanted_) return true;
    if (!text)
      return fail(field_ ? std::string("`").append(*field_).append("` is no string")
                         : "item " + std::to_string(strings.size()) + " is no string");
    if (field_) strings.clear();
    if (strings.size() == kMaxStrings)
      return fail("the list has more than " + std::to_string(kMaxStrings) + " items");
    strings.push_back(std::move(*text));
    return true;
  }
  bool open(bool is_object) {
    if (depth_ == 0 && is_object != field_.has_value()) return fail_outermost();
    if (depth_ > 0 && !value(nullptr)) return false;
    ++depth_;
    return true;
  }
  bool close() {
    --depth_;
    return true;
  }
  bool fail_outermost() { return fail(field_ ? "this is no JSON object" : "this is no JSON list"); }
  bool fail(std::string why) {
    fault = std::move(why);
    return false;
  }

  std::optional<std::string_view> field_;
  bool wanted_;  // the next value at depth 1 is to be kept
  int64_t depth_ = 0;
};

std::vector<std::string> pick(std::string_view json, std::optional<std::string_view> field,
                              const std::string& where) {
  StringPicker picker(field);
  // The parser takes NUL for the end of its input, which would hide what follows.
  if (json.find('\0') != std::string_view::npos)
    picker.fault = "the JSON holds a NUL byte";
  else
    Json::sax_parse(json.begin(), json.end(), &picker);
  if (!picker.fault.empty())
    throw Error(ErrorCode::kData,
                {.what = picker.fault,
                 .where = where,
                 .fix = field ? "write one JSON object a line, with the text in `" +
                                    std::string(*field) + "`"
                              : "write a JSON list of strings"});
  return std::move(picker.strings);
}

}  // namespace

std::optional<std::string> string_field(std::string_view line, std::string_view field,
                                        const std::string& where) {
  std::vector<std::string> strings = pick(line, field, where);
  if (strings.empty()) return std::nullopt;
  return std::move(strings.front());
}

std::vector<std::string> string_list(std::string_view text, const std::string& where) {
  return pick(text, std::nullopt, where);
}

}  // namespace laos::hf
