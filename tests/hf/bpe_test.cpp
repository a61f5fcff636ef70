#include "hf/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <string>

#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using testing::ElementsAre;

std::array<int32_t, 256> identity() {
  std::array<int32_t, 256> tokens = {};
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

std::vector<int32_t> encode(const Bpe& bpe, std::string_view piece) {
  Bpe::Scratch scratch;
  std::vector<int32_t> ids;
  bpe.encode(piece, scratch, ids);
  return ids;
}

// The definition: do the most wanted merge, of equal ones the leftmost; begin again.
std::vector<int32_t> encode_by_definition(const std::vector<Bpe::Merge>& merges,
                                          std::string_view piece) {
  std::vector<int32_t> ids;
  for (const char c : piece) ids.push_back(static_cast<unsigned char>(c));
  while (true) {
    size_t best_rank = merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i)
      for (size_t rank = 0; rank < best_rank; ++rank)
        if (merges[rank].left == ids[i] && merges[rank].right == ids[i + 1]) {
          best_rank = rank;
          best = i;
        }
    if (best_rank == merges.size()) return ids;
    ids[best] = merges[best_rank].merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(Bpe, MergesByRankThenFromTheLeft) {
  const Bpe bpe(identity(), {{'b', 'c', 256}, {'a', 'b', 257}, {'a', 'a', 258}}, 259);
  EXPECT_THAT(encode(bpe, "abc"), ElementsAre('a', 256));
  EXPECT_THAT(encode(bpe, "abab"), ElementsAre(257, 257));
  EXPECT_THAT(encode(bpe, "aaa"), ElementsAre(258, 'a'));
  EXPECT_THAT(encode(bpe, ""), ElementsAre());
}

TEST(Bpe, LetsTheLaterOfTwoEqualMergesCount) {
  const Bpe bpe(identity(), {{'a', 'b', 256}, {'b', 'c', 257}, {'a', 'b', 256}}, 258);
  EXPECT_THAT(encode(bpe, "abc"), ElementsAre('a', 257));
}

TEST(Bpe, MatchesItsDefinitionOnRandomMerges) {
  std::mt19937 generator(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    std::vector<int32_t> pool = {'a', 'b', 'c'};
    std::vector<Bpe::Merge> merges;
    while (merges.size() < 25) {
      const int32_t left = pool[generator() % pool.size()];
      const int32_t right = pool[generator() % pool.size()];
      const bool repeated = std::any_of(merges.begin(), merges.end(), [&](const Bpe::Merge& merge) {
        return merge.left == left && merge.right == right;
      });
      if (repeated) continue;
      const std::string joined =
          tokens[static_cast<size_t>(left)] + tokens[static_cast<size_t>(right)];
      auto id =
          static_cast<int32_t>(std::find(tokens.begin(), tokens.end(), joined) - tokens.begin());
      if (id == std::ssize(tokens)) {
        tokens.push_back(joined);
        pool.push_back(id);
      }
      merges.push_back({left, right, id});
    }
    std::shuffle(merges.begin(), merges.end(), generator);
    const Bpe bpe(identity(), merges, std::ssize(tokens));
    for (int i = 0; i < 10; ++i) {
      std::string piece(generator() % 60, ' ');
      for (char& c : piece) c = static_cast<char>('a' + generator() % 3);
      ASSERT_EQ(encode(bpe, piece), encode_by_definition(merges, piece)) << piece;
    }
  }
}

TEST(Bpe, MergesAWordOfAMegabyteInTime) {
  const Bpe bpe(identity(), {{'a', 'b', 256}, {256, 256, 257}, {257, 257, 258}}, 259);
  std::string piece;
  for (int i = 0; i < 1 << 19; ++i) piece += "ab";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(encode(bpe, piece), std::vector<int32_t>(1 << 17, 258));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(Bpe, RefusesAByteWithoutAToken) {
  std::array<int32_t, 256> tokens = identity();
  tokens['x'] = -1;
  const Bpe bpe(tokens, {}, 256);
  EXPECT_THAT(encode(bpe, "ab"), ElementsAre('a', 'b'));
  const Error error = test::error_of([&] { encode(bpe, "ax"); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(error.what(), testing::HasSubstr("120"));
}

TEST(Bpe, RefusesAPieceBeyondMeasure) {
  const Bpe bpe(identity(), {}, 256);
  const std::string piece(Bpe::kMaxPieceBytes + 1, 'a');
  EXPECT_EQ(test::error_of([&] { encode(bpe, piece); }).code(), ErrorCode::kData);
}

}  // namespace
}  // namespace laos::hf
