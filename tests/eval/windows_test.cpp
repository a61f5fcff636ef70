#include "eval/windows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace laos::eval {
namespace {

std::vector<int32_t> document(int64_t length, int32_t first = 0) {
  std::vector<int32_t> ids(static_cast<size_t>(length));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

// The scored tokens in order.
std::vector<int32_t> scored(const Windows& windows) {
  std::vector<int32_t> ids;
  for (const Window& window : windows)
    ids.insert(ids.end(), window.ids.begin() + window.num_context, window.ids.end());
  return ids;
}

using testing::ElementsAre;

TEST(CutWindows, WithoutOverlapScoresAllButTheFirstTokenOfEach) {
  const Windows windows = cut_windows({document(8)}, {.seq_len = 4});
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_THAT(windows[1].ids, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(scored(windows), ElementsAre(1, 2, 3, 5, 6, 7));
}

TEST(CutWindows, WithOverlapScoresEveryTokenButTheFirstOnce) {
  for (int64_t length = 2; length < 40; ++length) {
    for (int64_t stride = 1; stride < 7; ++stride) {
      const Windows windows = cut_windows({document(length)}, {.seq_len = 7, .stride = stride});
      EXPECT_EQ(scored(windows), document(length - 1, 1)) << length << " by " << stride;
      for (size_t w = 1; w < windows.size(); ++w) EXPECT_EQ(windows[w].num_context, 7 - stride);
    }
  }
}

TEST(CutWindows, DropsWhatFillsNoWindowUnlessAskedToKeepIt) {
  EXPECT_THAT(scored(cut_windows({document(10)}, {.seq_len = 4, .keep_short = false})),
              ElementsAre(1, 2, 3, 5, 6, 7));
  EXPECT_THAT(scored(cut_windows({document(10)}, {.seq_len = 4})),
              ElementsAre(1, 2, 3, 5, 6, 7, 9));
  EXPECT_TRUE(cut_windows({document(3)}, {.seq_len = 4, .keep_short = false}).empty());
  // A window of one token would score nothing.
  EXPECT_EQ(cut_windows({document(9)}, {.seq_len = 4}).size(), 2u);
}

TEST(CutWindows, KeepsDocumentsApart) {
  const Windows windows =
      cut_windows({document(3), document(1, 10), document(5, 20)}, {.seq_len = 4, .stride = 2});
  EXPECT_THAT(scored(windows), ElementsAre(1, 2, 21, 22, 23, 24));
  EXPECT_THAT(windows[2].ids, ElementsAre(22, 23, 24));
}

TEST(CutWindows, ScoresExactlyMaxTokens) {
  for (int64_t max = 1; max <= 12; ++max)
    EXPECT_EQ(
        num_scored(cut_windows({document(8), document(8)}, {.seq_len = 4, .max_tokens = max})),
        max);
  const std::vector<int32_t> all = scored(cut_windows({document(8), document(8)}, {.seq_len = 4}));
  EXPECT_EQ(scored(cut_windows({document(8), document(8)}, {.seq_len = 4, .max_tokens = 5})),
            std::vector<int32_t>(all.begin(), all.begin() + 5));
}

}  // namespace
}  // namespace laos::eval
