// How sizes and times are shown.
#include "core/units.h"

#include <gtest/gtest.h>

namespace laos {
namespace {

TEST(Units, SizesAreInTheLargestUnitThatTheyFill) {
  EXPECT_EQ(bytes_text(int64_t{512}), "512 B");
  EXPECT_EQ(bytes_text(int64_t{10'000'000}), "10.0 MB");
  EXPECT_EQ(bytes_text(int64_t{6'449'000'000}), "6.4 GB");
  EXPECT_EQ(bytes_text(int64_t{999'999}), "1.0 MB");
}

TEST(Units, PartsOfATimeAddUpToIt) {
  EXPECT_EQ(duration_text(99.94), "99.9 s");
  EXPECT_EQ(duration_text(119.9), "2 min 00 s");
  EXPECT_EQ(duration_text(119.9 * 3), "6 min 00 s");
  EXPECT_EQ(duration_text(3 * 3600 + 59.9 * 60), "4 h 00 min");
}

TEST(Units, AGuessOfATimeIsRoundedNotCut) {
  EXPECT_EQ(rough_duration_text(41.6), "42 s");
  EXPECT_EQ(rough_duration_text(119), "2 min");
  EXPECT_EQ(rough_duration_text(2 * 3600 + 59.7 * 60), "3 h 00 min");
}

}  // namespace
}  // namespace laos
