// What a run says of the time it will still take.
#include "pipeline/job_clock.h"

#include <gtest/gtest.h>

#include "pipeline/run.h"

namespace laos::pipeline {
namespace {

class Clock : public testing::Test {
 protected:
  double now_ = 100;
  JobClock clock_{{{kFitPart, 10}, {kQuantizePart, 100}, {kSavePart, 5}, {kHealthPart, 5}},
                  [this] { return now_; }};
};

TEST_F(Clock, TellsTheTimeOfTheWholeJobNotOfThePartAtWork) {
  clock_.begin(kFitPart, 10);
  EXPECT_FALSE(clock_.job_seconds_left());
  now_ += 10;
  clock_.step(5);  // half of 10 in 10 s: 2 s a unit
  EXPECT_DOUBLE_EQ(*clock_.part_seconds_left(), 10);
  EXPECT_DOUBLE_EQ(*clock_.job_seconds_left(), 10 + 2 * 110);
}

TEST_F(Clock, LearnsFromThePartsThatAreDone) {
  clock_.begin(kFitPart, 10);
  now_ += 30;
  clock_.begin(kQuantizePart, 4);
  EXPECT_DOUBLE_EQ(*clock_.job_seconds_left(), 3 * 110);  // 3 s a unit
  now_ += 100;
  clock_.step(2);  // half of it in 100 s; the rest at the speed of all until now
  EXPECT_DOUBLE_EQ(*clock_.job_seconds_left(), 100 + 10 * 130.0 / 60);
}

TEST_F(Clock, CountsNotWhatAnEarlierRunDid) {
  clock_.begin(kQuantizePart, 4);
  clock_.kept(2);
  EXPECT_FALSE(clock_.part_seconds_left());
  now_ += 50;
  clock_.step(3);
  EXPECT_DOUBLE_EQ(*clock_.part_seconds_left(), 50);
}

TEST_F(Clock, TellsTheTimeOfTheLayerAtWork) {
  clock_.begin(kQuantizePart, 4);
  clock_.iteration(1, 1, 100);
  EXPECT_FALSE(clock_.layer_seconds_left());
  now_ += 20;
  clock_.iteration(1, 11, 100);
  EXPECT_DOUBLE_EQ(*clock_.layer_seconds_left(), 2 * 89);
  clock_.iteration(2, 1, 100);
  EXPECT_FALSE(clock_.layer_seconds_left());
}

TEST_F(Clock, SaysNothingOfAJobWhosePartsItDoesNotKnow) {
  JobClock clock({}, [this] { return now_; });
  clock.begin("eval", 10);
  now_ += 5;
  clock.step(5);
  EXPECT_FALSE(clock.job_seconds_left());
  EXPECT_DOUBLE_EQ(*clock.part_seconds_left(), 5);
}

}  // namespace
}  // namespace laos::pipeline
