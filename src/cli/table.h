// Tables on the terminal.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

namespace laos::cli {

// Columns as wide as their widest cell; the first is flush left, the others right.
inline void print_rows(const std::vector<std::vector<std::string>>& rows) {
  const auto width_of = [](const std::string& cell) {
    return std::count_if(cell.begin(), cell.end(), [](char c) { return (c & 0xC0) != 0x80; });
  };
  std::vector<int64_t> widths(rows.front().size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string space(static_cast<size_t>(widths[i] - width_of(row[i])), ' ');
      std::cout << (i == 0 ? row[i] + space : "  " + space + row[i]);
    }
    std::cout << '\n';
  }
}

}  // namespace laos::cli
