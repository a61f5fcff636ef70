// Tables on the terminal.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "core/utf8.h"
#include "eval/metrics.h"

namespace laos::cli {

// "21.4618 ± 0.9173"; without the error where it is of one value.
inline std::string mean_text(const eval::Mean& mean, int digits = 4) {
  char text[64];
  if (std::isnan(mean.std_error))
    std::snprintf(text, sizeof text, "%.*f", digits, mean.value);
  else
    std::snprintf(text, sizeof text, "%.*f ± %.*f", digits, mean.value, digits, mean.std_error);
  return text;
}

// Columns as wide as their widest cell; the first is flush left, the others right.
inline void print_rows(const std::vector<std::vector<std::string>>& rows) {
  std::vector<int64_t> widths(rows.front().size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], num_characters(row[i]));
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string space(static_cast<size_t>(widths[i] - num_characters(row[i])), ' ');
      std::cout << (i == 0 ? row[i] + space : "  " + space + row[i]);
    }
    std::cout << '\n';
  }
}

}  // namespace laos::cli
