// A YAML document as a tree that remembers where everything stands: anchors and merge keys
// expanded, scalars resolved as in YAML 1.1.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "core/error.h"
#include "recipe/yaml_scalar.h"

namespace laos::recipe {

// What a document may take at most, so that a hostile one costs neither memory nor time.
inline constexpr size_t kMaxYamlBytes = size_t{1} << 20;
inline constexpr size_t kMaxYamlNodes = 100'000;               // after aliases are expanded
inline constexpr size_t kMaxExpandedBytes = size_t{16} << 20;  // of scalars, after the same
inline constexpr int kMaxYamlDepth = 64;

struct DocumentNode {
  enum class Kind { kScalar, kList, kMap };

  Kind kind = Kind::kScalar;
  Scalar scalar = {.kind = ScalarKind::kNull};
  std::string text;                 // of a scalar: as written, without quotes
  bool plain = true;                // written without quotes or tag
  int line = 0;                     // from 1; of what an alias stands for: where the anchor is
  int column = 0;                   // from 1
  std::vector<DocumentNode> keys;   // of a map: scalars, items[i] belongs to keys[i]
  std::vector<DocumentNode> items;  // of a list or map, in file order; merged entries come first

  bool is_map() const noexcept { return kind == Kind::kMap; }
  bool is_list() const noexcept { return kind == Kind::kList; }
  bool is_null() const noexcept {
    return kind == Kind::kScalar && scalar.kind == ScalarKind::kNull;
  }
  // The value of `key` in a map, or nullptr.
  const DocumentNode* find(const std::string& key) const noexcept;
};

// Reads the one document of `text`; `name` stands for the file in messages ("name:LINE:COLUMN
// key"). Keys that appear twice in a mapping, after `<<` is merged, go to `duplicates`, so that a
// caller can report them together with what else is wrong. Throws Error(kRecipe): not YAML, not
// UTF-8, control characters, more than one document, keys that are not scalars, unknown tags, an
// anchor inside itself, anything above the limits.
DocumentNode parse_document(const std::string& text, const std::string& name,
                            std::vector<Problem>& duplicates);

// Block-style YAML that parse_document reads back to the same tree (lines and columns aside).
std::string emit_document(const DocumentNode& node);

// `text` fit for a one-line message: control characters escaped, cut after 80 characters.
std::string printable(const std::string& text);

}  // namespace laos::recipe
