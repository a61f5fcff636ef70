#include "hf/text_stream.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "hf/unicode.h"
#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using nlohmann::json;

const std::filesystem::path kRoot = LAOS_SOURCE_DIR;

struct Streamed {
  std::vector<std::string> pieces;
  std::string text;
};
Streamed stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  TextStream stream(tokenizer);
  Streamed result;
  for (const int32_t id : ids) result.pieces.push_back(stream.push(id));
  result.pieces.push_back(stream.finish());
  for (const std::string& piece : result.pieces) result.text += piece;
  return result;
}

TEST(TextStream, HoldsACharacterBackUntilItIsWhole) {
  const Tokenizer bytes = test::load(test::small_tokenizer());  // token b is byte b
  const Streamed streamed = stream(bytes, {'a', 0xF0, 0x9F, 0x8C, 0x8D, 0xC3, 0xA9, 'b'});
  EXPECT_EQ(streamed.pieces,
            (std::vector<std::string>{"a", "", "", "", "\U0001F30D", "", "\u00E9", "b", ""}));
}

TEST(TextStream, GivesBrokenSequencesAsDecodeDoes) {
  const Tokenizer bytes = test::load(test::small_tokenizer());
  // All short strings over bytes that begin, continue and cannot stand in sequences.
  const std::vector<int32_t> alphabet = {'a', 0x80, 0xC3, 0xE0, 0xA0, 0xED, 0xF0, 0x90, 0xF4, 0xFF};
  std::mt19937 generator(1);
  for (int round = 0; round < 20'000; ++round) {
    std::vector<int32_t> ids(1 + generator() % 7);
    for (int32_t& id : ids) id = alphabet[generator() % alphabet.size()];
    const Streamed streamed = stream(bytes, ids);
    ASSERT_EQ(streamed.text, bytes.decode(ids));
    for (const std::string& piece : streamed.pieces)
      ASSERT_EQ(first_invalid_utf8(piece), std::string_view::npos);
  }
}

TEST(TextStream, GivesTheGoldenTextOfManyScripts) {
  const Tokenizer tokenizer = Tokenizer::load(kRoot / "models/qwen3-tiny");
  std::ifstream file(kRoot / "tests/golden/qwen3-tiny/tokenizer.jsonl");
  int count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    const json golden = json::parse(line);
    EXPECT_EQ(stream(tokenizer, golden["ids"].get<std::vector<int32_t>>()).text,
              golden["decoded"].get<std::string>());
  }
  EXPECT_EQ(count, 100);
}

TEST(TextStream, ShowsIdsThatAreNoTokens) {
  const Tokenizer bytes = test::load(test::small_tokenizer());
  EXPECT_EQ(stream(bytes, {'a', 0xC3, 9999, 'b'}).text, "a\uFFFD\uFFFDb");
}

}  // namespace
}  // namespace laos::hf
