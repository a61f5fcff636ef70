#include "quant/scheme.h"

#include <gtest/gtest.h>

namespace laos::quant {
namespace {

std::optional<std::string> label(int weight_bits, int act_bits, int64_t group_size = 0) {
  return label_of(
      {.weight = {.bits = weight_bits, .group_size = group_size}, .act = {.bits = act_bits}});
}

TEST(LinearScheme, NamesEveryPairThatTheFormatsHold) {
  EXPECT_EQ(label(4, 4), "W4A4_DYNAMIC");
  EXPECT_EQ(label(4, 4, 256), "W4A4_DYNAMIC");
  EXPECT_EQ(label(8, 8), "W8A8_DYNAMIC");
  EXPECT_EQ(label(8, 8, 128), "W8A8_DYNAMIC");
  EXPECT_EQ(label(4, 8), "W4A8_DYNAMIC");
  EXPECT_EQ(label(8, 16), "W8A16");
  EXPECT_EQ(label(8, 16, 128), "W8A16");
  EXPECT_EQ(label(4, 16), "W4A16");
  EXPECT_EQ(label(4, 16, 128), "W4A16");
}

TEST(LinearScheme, HasNoNameForOtherPairs) {
  EXPECT_EQ(label(4, 8, 256), std::nullopt);  // W4A8 is per-channel only
  EXPECT_EQ(label(8, 4), std::nullopt);
  EXPECT_EQ(label(3, 3), std::nullopt);
  EXPECT_EQ(label(4, 4, -1), std::nullopt);
}

std::optional<std::string> static_label(int weight_bits, int act_bits, int64_t group_size = 0,
                                        bool symmetric = true) {
  return label_of({.weight = {.bits = weight_bits, .group_size = group_size},
                   .act = {.bits = act_bits, .is_static = true, .symmetric = symmetric}});
}

TEST(LinearScheme, StaticActivationsAre8BitsBesidePerChannel8BitWeightsOnly) {
  EXPECT_EQ(static_label(8, 8), "W8A8");
  EXPECT_EQ(static_label(8, 8, 0, false), "W8A8");  // the stored offset tells the two apart
  EXPECT_EQ(static_label(8, 8, 128), std::nullopt);
  EXPECT_EQ(static_label(4, 8), std::nullopt);
  EXPECT_EQ(static_label(4, 4), std::nullopt);
  EXPECT_EQ(static_label(8, 16), std::nullopt);
}

}  // namespace
}  // namespace laos::quant
