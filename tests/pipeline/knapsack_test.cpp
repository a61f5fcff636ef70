#include "pipeline/knapsack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace laos::pipeline {
namespace {

struct Sum {
  double value = 0;
  int64_t size = 0;
};
Sum sum_of(const std::vector<bool>& taken, const std::vector<double>& values,
           const std::vector<int64_t>& sizes) {
  Sum sum;
  for (size_t i = 0; i < taken.size(); ++i) {
    if (!taken[i]) continue;
    sum.value += values[i];
    sum.size += sizes[i];
  }
  return sum;
}

double best_of_all(const std::vector<double>& values, const std::vector<int64_t>& sizes,
                   int64_t capacity) {
  double best = 0;
  for (uint32_t bits = 0; bits < (1U << values.size()); ++bits) {
    std::vector<bool> taken(values.size());
    for (size_t i = 0; i < taken.size(); ++i) taken[i] = (bits >> i & 1) != 0;
    const Sum sum = sum_of(taken, values, sizes);
    if (sum.size <= capacity) best = std::max(best, sum.value);
  }
  return best;
}

TEST(Knapsack, IsAsGoodAsTheBestOfAllSubsets) {
  std::mt19937 generator(7);
  for (int trial = 0; trial < 200; ++trial) {
    const size_t count = 1 + generator() % 11;
    std::vector<double> values;
    std::vector<int64_t> sizes;
    int64_t total = 0;
    for (size_t i = 0; i < count; ++i) {
      values.push_back(static_cast<double>(generator() % 1000) / 7);
      // As weights of linears: multiples of a large number.
      sizes.push_back(static_cast<int64_t>(1 + generator() % 12) * 1'048'576);
      total += sizes.back();
    }
    const auto capacity =
        static_cast<int64_t>(generator() % static_cast<uint32_t>(total / 1024)) * 1024;
    const std::vector<bool> taken = knapsack(values, sizes, capacity);
    const Sum sum = sum_of(taken, values, sizes);
    EXPECT_LE(sum.size, capacity);
    EXPECT_NEAR(sum.value, best_of_all(values, sizes, capacity), 1e-9);
  }
}

TEST(Knapsack, TakesNothingIntoNoRoomAndAllWhereAllFit) {
  EXPECT_EQ(knapsack({1, 2}, {3, 4}, 0), (std::vector<bool>{false, false}));
  EXPECT_EQ(knapsack({1, 2}, {3, 4}, 7), (std::vector<bool>{true, true}));
  EXPECT_EQ(knapsack({1, 2}, {3, 4}, 1'000'000'000), (std::vector<bool>{true, true}));
  EXPECT_TRUE(knapsack({}, {}, 5).empty());
}

TEST(Knapsack, OfSizesWithoutACommonDivisorStillFits) {
  const std::vector<double> values = {1, 1, 1};
  const std::vector<int64_t> sizes = {1'000'000'007, 998'244'353, 1'000'003};
  const std::vector<bool> taken = knapsack(values, sizes, 1'100'000'000);
  EXPECT_LE(sum_of(taken, values, sizes).size, 1'100'000'000);
  EXPECT_EQ(sum_of(taken, values, sizes).value, 2);
}

}  // namespace
}  // namespace laos::pipeline
