#include "core/threads.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

namespace laos {
namespace {

class ParallelFor : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_num_threads(GetParam()); }
  void TearDown() override { set_num_threads(before_); }

 private:
  const int before_ = num_threads();
};
INSTANTIATE_TEST_SUITE_P(Threads, ParallelFor, testing::Values(1, 2, 5),
                         testing::PrintToStringParamName());

TEST_P(ParallelFor, CallsEveryIndexOnce) {
  for (const int64_t count : {-1, 0, 1, 2, 3, 1000}) {
    std::vector<std::atomic<int>> calls(static_cast<size_t>(std::max<int64_t>(count, 0)));
    parallel_for(count, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
    for (const std::atomic<int>& c : calls) ASSERT_EQ(c, 1) << count;
  }
}

TEST_P(ParallelFor, RangesCoverEveryIndexOnceInPiecesOfAtMostTheGrain) {
  for (const int64_t count : {0, 1, 6, 7, 8, 100}) {
    for (const int64_t grain : {1, 7, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
      parallel_for_ranges(count, grain, [&](int64_t begin, int64_t end) {
        EXPECT_LT(begin, end);
        EXPECT_LE(end - begin, grain);
        EXPECT_EQ(begin % grain, 0);  // cut by shape, never by the number of threads
        for (int64_t i = begin; i < end; ++i) ++calls[static_cast<size_t>(i)];
      });
      for (const std::atomic<int>& c : calls) ASSERT_EQ(c, 1) << count << " by " << grain;
    }
  }
}

TEST_P(ParallelFor, RethrowsTheExceptionOfTheLowestIndexAfterAllTasks) {
  std::atomic<int> calls = 0;
  try {
    parallel_for(100, [&](int64_t i) {
      ++calls;
      if (i % 30 == 7) throw std::runtime_error(std::to_string(i));
    });
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "7");
  }
  EXPECT_EQ(calls, 100);
  EXPECT_EQ(num_threads(), GetParam());  // and the setting is as it was
}

TEST_P(ParallelFor, IsOneThreadInsideATask) {
  std::atomic<int> calls = 0, others = 0, widest = 0;
  parallel_for(8, [&](int64_t) {
    // What a library that reads OpenMP's setting would see.
    if (num_threads() != 1) ++others;
    const int thread = omp_get_thread_num();
    parallel_for(16, [&](int64_t) {
      ++calls;
      if (omp_get_num_threads() != 1) ++widest;
      if (omp_get_ancestor_thread_num(1) != thread) ++others;
    });
    if (num_threads() != 1) ++others;
  });
  EXPECT_EQ(calls, 8 * 16);
  EXPECT_EQ(widest, 0);
  EXPECT_EQ(others, 0);
  EXPECT_EQ(num_threads(), GetParam());
}

TEST_P(ParallelFor, UsesTheThreadsItHas) {
  std::atomic<int> team = 0;
  parallel_for(100, [&](int64_t) { team = omp_get_num_threads(); });
  EXPECT_EQ(team, GetParam());
}

TEST(SetNumThreads, RefusesNone) { EXPECT_THROW(set_num_threads(0), Error); }

}  // namespace
}  // namespace laos
