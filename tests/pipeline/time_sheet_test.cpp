// Where the time of a run goes.
#include "pipeline/time_sheet.h"

#include <gtest/gtest.h>

#include <string>

namespace laos::pipeline {
namespace {

TEST(TimeSheet, GivesEachMomentToThePartThatWasOpenedLast) {
  double now = 5;
  TimeSheet sheet([&] { return now; });
  {
    const TimeSheet::Span outer(&sheet, "outer");
    now += 1;
    {
      const TimeSheet::Span inner(&sheet, "inner");
      now += 10;
      const TimeSheet::Span again(&sheet, "outer");  // the same part, within another
      now += 100;
    }
    now += 1000;
  }
  now += 10000;  // of no part
  const TimeSheet::Span last(&sheet, "last");
  ASSERT_EQ(sheet.parts().size(), 3);
  EXPECT_EQ(sheet.parts()[0].name, "outer");
  EXPECT_EQ(sheet.parts()[0].seconds, 1101);
  EXPECT_EQ(sheet.parts()[1].name, "inner");
  EXPECT_EQ(sheet.parts()[1].seconds, 10);
  EXPECT_EQ(sheet.parts()[2].name, "last");
  EXPECT_EQ(sheet.parts()[2].seconds, 0);
}

TEST(TimeSheet, MayBeMissing) { const TimeSheet::Span span(nullptr, "part"); }

}  // namespace
}  // namespace laos::pipeline
