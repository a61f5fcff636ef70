#include "hf/added_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace laos::hf {
namespace {

using testing::ElementsAre;

// The parts of `text`: text as it is, tokens as <id>.
std::vector<std::string> split(const AddedTokens& tokens, std::string_view text) {
  std::vector<std::string> parts;
  for (const TextPart& part : tokens.split(text))
    parts.push_back(part.id == TextPart::kText ? std::string(part.text)
                                               : "<" + std::to_string(part.id) + ">");
  return parts;
}

TEST(AddedTokens, FindsTheLongestAtTheLeftmostPlace) {
  AddedTokens tokens;
  tokens.add("ab", {.id = 1});
  tokens.add("abcd", {.id = 2});
  tokens.add("bc", {.id = 3});
  EXPECT_THAT(split(tokens, "xabcdabcxbc"), ElementsAre("x", "<2>", "<1>", "cx", "<3>"));
  EXPECT_THAT(split(tokens, "abc"), ElementsAre("<1>", "c"));
  EXPECT_THAT(split(tokens, "a"), ElementsAre("a"));
  EXPECT_THAT(split(tokens, ""), ElementsAre());
}

TEST(AddedTokens, LeavesTextAloneWhenThereAreNone) {
  EXPECT_THAT(split(AddedTokens(), "ab"), ElementsAre("ab"));
}

TEST(AddedTokens, TakeWhiteSpaceAlongWhereTheyStrip) {
  AddedTokens tokens;
  tokens.add("L", {.id = 1, .lstrip = true});
  tokens.add("R", {.id = 2, .rstrip = true});
  tokens.add("N", {.id = 3});
  EXPECT_THAT(split(tokens, "a \n L b"), ElementsAre("a", "<1>", " b"));
  EXPECT_THAT(split(tokens,
                    "a R \xE3\x80\x80"
                    "b"),
              ElementsAre("a ", "<2>", "b"));
  EXPECT_THAT(split(tokens, "R  L  N  L"), ElementsAre("<2>", "<1>", "  ", "<3>", "<1>"));
}

TEST(AddedTokens, SayWhenAContentIsThereAlready) {
  AddedTokens tokens;
  EXPECT_TRUE(tokens.add("abc", {.id = 1}));
  EXPECT_TRUE(tokens.add("ab", {.id = 2}));
  EXPECT_FALSE(tokens.add("abc", {.id = 3}));
}

}  // namespace
}  // namespace laos::hf
