#include "pipeline/hidden_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <fstream>

#include "eval/windows.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

namespace fs = std::filesystem;

class HiddenCacheTest : public testing::Test {
 protected:
  void SetUp() override { write_model(1); }
  void write_model(uint64_t seed) {
    test::write_synthetic({.config = test::qwen3_config("tiny"), .seed = seed},
                          directory_ / "model");
  }
  HiddenCache::Result result(const eval::EvalModel& model, int64_t max_bytes) const {
    return HiddenCache({.directory = cache_, .max_bytes = max_bytes})
        .scored_hidden(model, directory_ / "model", windows_);
  }
  // Of a model that is gone afterwards: only the rows may be looked at.
  HiddenCache::Result result(int64_t max_bytes = 1 << 20) const {
    return result(*eval::open_eval_model(directory_ / "model"), max_bytes);
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    if (fs::exists(cache_))
      for (const auto& entry : fs::directory_iterator(cache_)) found.push_back(entry.path());
    std::sort(found.begin(), found.end());
    return found;
  }
  static void expect_same(const Mat<float>& a, const Mat<float>& b) {
    ASSERT_EQ(a.rows(), b.rows());
    EXPECT_EQ(std::memcmp(a.data(), b.data(), static_cast<size_t>(4 * a.size())), 0);
  }
  Mat<float> exact() const {
    return eval::scored_hidden(*eval::open_eval_model(directory_ / "model"), windows_).rows;
  }

  test::TemporaryDirectory directory_;
  const fs::path cache_ = directory_ / "cache" / "laos";
  eval::Windows windows_ = {{.ids = {1, 2, 3, 4, 5}}, {.ids = {9, 8, 7, 6}, .num_context = 2}};
};

TEST_F(HiddenCacheTest, GivesTheSameBitsASecondTime) {
  const HiddenCache::Result first = result(), second = result();
  EXPECT_FALSE(first.found);
  EXPECT_TRUE(second.found);
  EXPECT_EQ(first.problem + second.problem, "");
  expect_same(first.hidden.rows, exact());
  expect_same(second.hidden.rows, exact());
  // From them a comparison of the model with itself is exactly 0.
  const auto model = eval::open_eval_model(directory_ / "model");
  const HiddenCache::Result third = result(*model, 1 << 20);
  EXPECT_TRUE(third.found);
  EXPECT_EQ(eval::compare(eval::scored_hidden(*model, windows_), third.hidden, windows_)
                .divergence.kl_max,
            0);
  EXPECT_EQ(files().size(), 1U);
}

TEST_F(HiddenCacheTest, KeepsWhatDependsOnOtherWindowsOrAnotherModelApart) {
  result();
  windows_[1].num_context = 1;
  EXPECT_FALSE(result().found);
  windows_[0].ids[0] = 11;
  EXPECT_FALSE(result().found);
  EXPECT_TRUE(result().found);
  write_model(2);
  const HiddenCache::Result changed = result();
  EXPECT_FALSE(changed.found);
  expect_same(changed.hidden.rows, exact());
}

TEST_F(HiddenCacheTest, NoticesDamageAndMendsIt) {
  result();
  const fs::path file = files().front();
  const auto size = static_cast<int64_t>(fs::file_size(file));
  for (const int64_t at : {int64_t{3}, size / 2, size - 1}) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(at);
    const char byte = static_cast<char>(stream.get() ^ 0x20);
    stream.seekp(at);
    stream.put(byte);
    stream.close();
    const HiddenCache::Result damaged = result();
    EXPECT_FALSE(damaged.found) << at;
    EXPECT_NE(damaged.problem, "") << at;
    expect_same(damaged.hidden.rows, exact());
    EXPECT_TRUE(result().found) << at;
  }
  fs::resize_file(file, static_cast<uintmax_t>(size / 2));
  EXPECT_FALSE(result().found);
  EXPECT_TRUE(result().found);
}

TEST_F(HiddenCacheTest, StaysWithinItsSizeAndForgetsTheLongestUnused) {
  // A file: 6 tokens of 64 floats and a few kilobytes of what they depend on.
  std::ofstream(directory_ / "other") << "not of the cache";
  const int64_t two_files = [&] {
    result();
    return 2 * static_cast<int64_t>(fs::file_size(files().front())) + 16;
  }();
  const fs::path oldest = files().front();
  fs::last_write_time(oldest, fs::file_time_type::clock::now() - std::chrono::hours(1));
  windows_[0].ids[0] = 20;
  result(two_files);
  EXPECT_EQ(files().size(), 2U);
  windows_[0].ids[0] = 21;
  result(two_files);
  EXPECT_EQ(files().size(), 2U);
  EXPECT_FALSE(fs::exists(oldest));
  // More than the cache may hold is not kept.
  windows_[0].ids[0] = 22;
  const HiddenCache::Result large = result(100);
  EXPECT_FALSE(large.found);
  EXPECT_THAT(large.problem, testing::HasSubstr("larger"));
}

TEST_F(HiddenCacheTest, ThatCannotBeWrittenIsNoError) {
  std::ofstream(directory_ / "cache") << "a file where the directory should be";
  const HiddenCache::Result unkept = result();
  EXPECT_FALSE(unkept.found);
  EXPECT_NE(unkept.problem, "");
  expect_same(unkept.hidden.rows, exact());
}

}  // namespace
}  // namespace laos::pipeline
