// The 0/1 knapsack.
#pragma once

#include <cstdint>
#include <vector>

namespace laos::pipeline {

// Which items to take so that their values sum to the most and their sizes to `capacity` at most;
// values >= 0, sizes > 0, capacity >= 0. Exact where capacity is at most 2^20 times the greatest
// common divisor of the sizes, as it is where they are those of a model's linears; beyond that
// sizes are rounded up, so that what is chosen fits but need not be the best. Equal arguments,
// equal choice.
std::vector<bool> knapsack(const std::vector<double>& values, const std::vector<int64_t>& sizes,
                           int64_t capacity);

}  // namespace laos::pipeline
