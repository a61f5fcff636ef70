// The keys of a mapping, and reading their values with located messages. Which keys there are
// stands beside the code that reads them: known_keys() lists them all.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "recipe/recipe.h"
#include "recipe/yaml_document.h"

namespace laos::recipe {

// One mapping of the recipe format. docs/recipes.md has a section of this title with a row for each
// key.
struct MapSchema {
  std::string title;
  std::vector<std::string> keys;
  bool open = false;  // other keys are allowed
};

// Characters that a text may have at most.
inline constexpr int64_t kMaxNameCharacters = 200, kMaxDatasetCharacters = 4096;

// A node and the key that leads to it: "spec.process[1].iters".
struct Value {
  const DocumentNode* node = nullptr;
  std::string key;

  Value item(size_t i) const { return {&node->items[i], key + "[" + std::to_string(i) + "]"}; }
};

// Collects what is wrong with a recipe (problems) and what is only odd (warnings). A place that
// several aliases repeat is reported once.
class Report {
 public:
  explicit Report(std::string file) : file_(std::move(file)) {}

  Location locate(const Value& value) const;
  void problem(const Location& at, std::string what, std::string fix);
  void problem(const Value& at, std::string what, std::string fix) {
    problem(locate(at), std::move(what), std::move(fix));
  }
  void problem(Problem found);  // one that is located already
  void warn(const Value& at, const std::string& text);

  const std::vector<std::string>& warnings() const noexcept { return warnings_; }
  // Throws Error(kRecipe) with every problem; the list is cut after a hundred.
  void throw_if_any() const;

 private:
  std::string file_;
  std::vector<Problem> problems_;
  size_t num_unlisted_ = 0;
  std::set<std::string> seen_;
  std::vector<std::string> warnings_;
};

bool contains(const std::vector<std::string>& names, const std::string& name);
// "did you mean `x`? " when one of `names` is near, else "".
std::string did_you_mean(const std::string& name, const std::vector<std::string>& names);

// Readers of one value: coerce leniently between numbers, truth values and text that spells one,
// never from a bare number to text. Report a problem and return nullopt when the value does not
// fit.
std::optional<int64_t> read_integer(Report& report, const Value& value, int64_t min, int64_t max);
std::optional<double> read_number(Report& report, const Value& value, double min);
std::optional<bool> read_bool(Report& report, const Value& value);
// From 0 to 1; a truth value is one of these. `or_else` ends the messages, as ", or auto".
std::optional<double> read_share(Report& report, const Value& value, const std::string& or_else);
// At most `max_characters` UTF-8 characters.
std::optional<std::string> read_text(Report& report, const Value& value, int64_t max_characters);
std::optional<std::string> read_choice(Report& report, const Value& value,
                                       const std::vector<std::string>& allowed);
// True for a list; a problem otherwise.
bool require_list(Report& report, const Value& value);
// True for a mapping; a problem otherwise, with a hint at indentation for items of lists.
bool require_map(Report& report, const Value& value);

// The texts of a list; those that do not fit are left out.
std::vector<std::string> read_texts(Report& report, const Value& value, int64_t max_characters);
// The text at `type` of a mapping, when it is one of those supported; a problem otherwise. `kind`
// ("processor") is for messages; `other` are types of the format that laos does not run.
std::optional<std::string> read_type(Report& report, const Value& value, const std::string& kind,
                                     const std::vector<std::string>& supported,
                                     const std::vector<std::string>& other);

// Reads the entries of one mapping. Unknown keys are reported by the constructor, unless the schema
// is open. Reading a key that the schema does not have is a defect.
class MapReader {
 public:
  // `value` is a mapping. A key that `sibling` has and `schema` does not is reported as belonging
  // there.
  MapReader(Report& report, Value value, const MapSchema& schema,
            const MapSchema* sibling = nullptr);

  std::optional<Value> find(const std::string& key) const;
  // As find; reports a problem when the key is missing.
  std::optional<Value> require(const std::string& key) const;

  // Set `out` when the key is there and its value fits; leave the default otherwise.
  void integer(const std::string& key, int64_t min, int64_t max, int64_t& out) const;
  void boolean(const std::string& key, bool& out) const;

 private:
  Report& report_;
  Value value_;
  const MapSchema& schema_;
};

}  // namespace laos::recipe
