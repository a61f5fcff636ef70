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

Bpe::Alphabet identity() {
  Bpe::Alphabet alphabet;
  std::iota(alphabet.bytes.begin(), alphabet.bytes.end(), 0);
  return alphabet;
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

TEST(Bpe, LeavesOutAByteWithoutAToken) {
  Bpe::Alphabet alphabet = identity();
  alphabet.bytes['x'] = -1;
  const Bpe bpe(alphabet, {{'a', 'b', 256}}, 257);
  EXPECT_THAT(encode(bpe, "axb"), ElementsAre(256));
  EXPECT_THAT(encode(bpe, "x"), ElementsAre());
  EXPECT_FALSE(bpe.knows("ax"));
  EXPECT_TRUE(bpe.knows("ab"));
}

// Expected values: the Hugging Face library, where unknown tokens wait and byte tokens overtake
// them.
TEST(Bpe, GivesCharactersWithoutATokenTheirBytesOrTheUnknownToken) {
  Bpe::Alphabet alphabet;
  alphabet.by_character = true;
  alphabet.characters.assign(256, -1);
  alphabet.characters['a'] = 1;
  alphabet.characters['b'] = 2;
  alphabet.characters[0xE9] = 3;
  alphabet.bytes['A'] = 4;
  alphabet.unknown = 0;
  alphabet.fuse_unknown = true;
  const Bpe fused(alphabet, {{1, 2, 5}}, 6);
  EXPECT_THAT(encode(fused, "ab\u00e9"), ElementsAre(5, 3));
  EXPECT_THAT(encode(fused, "zzaz"), ElementsAre(0, 1, 0));
  EXPECT_THAT(encode(fused, "AzzA"), ElementsAre(4, 4, 0));
  EXPECT_THAT(encode(fused, "zzbA"), ElementsAre(0, 2, 4));
  EXPECT_THAT(encode(fused, "\u00e9Az"), ElementsAre(3, 4, 0));
  alphabet.fuse_unknown = false;
  EXPECT_THAT(encode(Bpe(alphabet, {}, 6), "\u4f60zb"), ElementsAre(0, 0, 2));
  alphabet.unknown = -1;
  EXPECT_THAT(encode(Bpe(alphabet, {}, 6), "a\u4f60"), ElementsAre(1));
}

TEST(Bpe, RefusesAPieceBeyondMeasure) {
  const Bpe bpe(identity(), {}, 256);
  const std::string piece(Bpe::kMaxPieceBytes + 1, 'a');
  EXPECT_EQ(test::error_of([&] { encode(bpe, piece); }).code(), ErrorCode::kData);
}

}  // namespace
}  // namespace laos::hf
