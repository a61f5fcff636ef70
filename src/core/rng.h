// Random numbers of the scheme: std::mt19937 seeded with one integer. Its outputs are the same on
// every machine; those of std::shuffle are not, hence the permutation here.
#pragma once

#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

namespace laos {

// A random permutation of 0..n-1: for i = 0..n-2 swap element i with element i + draw % (n - i).
inline std::vector<int64_t> random_permutation(std::mt19937& generator, int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = 0; i + 1 < n; ++i)
    std::swap(order[static_cast<size_t>(i)],
              order[static_cast<size_t>(
                  i + static_cast<int64_t>(generator() % static_cast<uint64_t>(n - i)))]);
  return order;
}

}  // namespace laos
