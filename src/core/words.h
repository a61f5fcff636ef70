// Lists in messages.
#pragma once

#include <string>
#include <string_view>

namespace laos {

// "a, b, c" or, with `last`, "a, b or c"; each name between two of `mark`.
template <class Names>
std::string listed(const Names& names, std::string_view last = "", std::string_view mark = "") {
  std::string text;
  size_t left = names.size();
  for (const auto& name : names) {
    text.append(mark).append(name).append(mark);
    --left;
    if (left == 1 && !last.empty())
      text.append(" ").append(last).append(" ");
    else if (left > 0)
      text.append(", ");
  }
  return text;
}

}  // namespace laos
