#include "core/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace laos {
namespace {

// What the published scheme draws with seed 1234.
TEST(Generator, StartsAsTheSchemeSays) {
  std::mt19937 generator(1234);
  for (const uint32_t expected : {822569775u, 2137449171u, 2671936806u, 3512589365u})
    EXPECT_EQ(generator(), expected);
}

TEST(Generator, GivesTheSchemesBits) {
  std::mt19937 generator(1234);
  std::string bits;
  for (int i = 0; i < 5120; ++i) bits += generator() % 2 != 0 ? '1' : '0';
  EXPECT_EQ(bits.substr(0, 64), "1101000111110010000000001011001001010001110110101011110101100100");
  EXPECT_EQ(std::count(bits.begin(), bits.begin() + 4096, '1'), 2100);
  EXPECT_EQ(std::count(bits.begin(), bits.end(), '1'), 2619);
}

TEST(RandomPermutation, FollowsTheSchemesStream) {
  std::mt19937 generator(1234);
  generator.discard(128);
  const std::vector<std::vector<int64_t>> starts = {
      {9, 8, 3, 10, 5, 2, 0, 1}, {11, 0, 3, 8, 5, 6, 4, 2}, {6, 3, 7, 4, 2, 1, 0, 9}};
  for (const std::vector<int64_t>& start : starts) {
    std::vector<int64_t> order = random_permutation(generator, 12);
    ASSERT_EQ(order.size(), 12u);
    order.resize(start.size());
    EXPECT_EQ(order, start);
  }
}

TEST(RandomPermutation, HoldsEveryIndexOnceAndDrawsOneLessThanItsSize) {
  for (const int64_t n : {0, 1, 2, 3, 100, 1001}) {
    std::mt19937 generator(7), counted(7);
    std::vector<int64_t> order = random_permutation(generator, n);
    std::sort(order.begin(), order.end());
    ASSERT_EQ(static_cast<int64_t>(order.size()), n);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(order[static_cast<size_t>(i)], i);
    counted.discard(static_cast<unsigned long long>(std::max<int64_t>(n - 1, 0)));
    EXPECT_EQ(generator, counted) << n;
  }
}

}  // namespace
}  // namespace laos
