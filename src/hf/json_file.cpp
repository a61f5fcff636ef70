#include "hf/json_file.h"

#include <algorithm>

namespace laos::hf {

JsonSize measure_json(std::string_view text) noexcept {
  JsonSize size{.depth = 0, .num_values = 1};
  int64_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == ',') {
      ++size.num_values;
    } else if (c == '[' || c == '{') {
      ++size.num_values;
      size.depth = std::max(size.depth, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return size;
}

}  // namespace laos::hf
