#include "pipeline/knapsack.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace laos::pipeline {

std::vector<bool> knapsack(const std::vector<double>& values, const std::vector<int64_t>& sizes,
                           int64_t capacity) {
  LAOS_ASSERT(values.size() == sizes.size() && capacity >= 0);
  constexpr int64_t kMaxUnits = int64_t{1} << 20;
  int64_t unit = 0, total = 0;
  for (const int64_t size : sizes) {
    LAOS_ASSERT(size > 0);
    unit = std::gcd(unit, size);
    total += size;
  }
  std::vector<bool> taken(values.size(), false);
  if (values.empty()) return taken;
  capacity = std::min(capacity, total);
  if (capacity / unit > kMaxUnits) unit = (capacity + kMaxUnits - 1) / kMaxUnits;
  const int64_t units = capacity / unit;

  // best[c]: the most that the items so far give in c units; takes[i][c]: whether item i is in it.
  const auto width = static_cast<size_t>(units + 1);
  std::vector<double> best(width, 0.0);
  std::vector<std::vector<bool>> takes(values.size(), std::vector<bool>(width, false));
  const auto units_of = [&](size_t i) { return (sizes[i] + unit - 1) / unit; };
  for (size_t i = 0; i < values.size(); ++i) {
    for (int64_t c = units; c >= units_of(i); --c) {
      const double with = best[static_cast<size_t>(c - units_of(i))] + values[i];
      if (with <= best[static_cast<size_t>(c)]) continue;
      best[static_cast<size_t>(c)] = with;
      takes[i][static_cast<size_t>(c)] = true;
    }
  }
  int64_t c = units;
  for (size_t i = values.size(); i-- > 0;) {
    if (!takes[i][static_cast<size_t>(c)]) continue;
    taken[i] = true;
    c -= units_of(i);
  }
  return taken;
}

}  // namespace laos::pipeline
