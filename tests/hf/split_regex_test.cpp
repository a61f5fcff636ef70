#include "hf/split_regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> split(const std::string& pattern, const std::string& text) {
  const SplitRegex regex(pattern, "here");
  SplitRegex::Scratch scratch(text.size());
  SplitRegex::Pieces pieces(regex, text, scratch);
  std::vector<std::string> result;
  for (std::string_view piece; pieces.next(piece);) result.emplace_back(piece);
  return result;
}

std::vector<std::string> qwen(const std::string& text) { return split(test::kQwenPattern, text); }

TEST(SplitRegex, CutsEnglishAsQwenDoes) {
  EXPECT_THAT(qwen("I'll say: don'T  go!\n"),
              ElementsAre("I", "'ll", " say", ":", " don", "'T", " ", " go", "!\n"));
  EXPECT_THAT(qwen("a 12b\r\n\r\n  x  "),
              ElementsAre("a", " ", "1", "2", "b", "\r\n\r\n", " ", " x", "  "));
  EXPECT_THAT(qwen("  \n  y"), ElementsAre("  \n", " ", " y"));
}

TEST(SplitRegex, KnowsTheCharactersThatTheReferenceKnows) {
  EXPECT_THAT(qwen("x'\u017Fa"), ElementsAre("x", "'\u017F", "a"));  // long s is an s in any case
  EXPECT_THAT(qwen("!\u180E!"), ElementsAre("!\u180E!"));            // no space any more
  EXPECT_THAT(qwen("!\u00A0!"), ElementsAre("!", "\u00A0", "!"));
  EXPECT_THAT(qwen("?\U00031350z"), ElementsAre("?\U00031350z"));    // a letter since Unicode 15
  EXPECT_THAT(qwen("a\U00010D40"), ElementsAre("a", "\U00010D40"));  // a digit since Unicode 16
}

// Expected values: pre_tokenizers.Split of the Hugging Face library.
TEST(SplitRegex, ReadsLinesAsTheReferenceDoes) {
  EXPECT_THAT(split(R"(\s+$)", "a  \n b \n"), ElementsAre("a", "  ", "\n b", " \n"));
  EXPECT_THAT(split("^a", "aa\naa\n"), ElementsAre("a", "a\n", "a", "a\n"));
  EXPECT_THAT(split("a.b", "a\nb a\rb axb a\u2028b"),
              ElementsAre("a\nb ", "a\rb", " ", "axb", " ", "a\u2028b"));
  EXPECT_THAT(split(R"(\s+$)", "a \r\n"), ElementsAre("a", " \r\n"));
  EXPECT_THAT(split("^", "a\n\nb\n"), ElementsAre("a\n", "\n", "b\n"));
  EXPECT_THAT(split("$", "a\n\nb\n"), ElementsAre("a", "\n", "\nb", "\n"));
  EXPECT_THAT(split(R"(\d+)", "a12\u0661\u00BDx"), ElementsAre("a", "12\u0661", "\u00BDx"));
}

TEST(SplitRegex, QuotesText) {
  for (const std::string text : {"a.b", "[^x]", "\\", "\u2581-", "a b\n"})
    EXPECT_THAT(split(SplitRegex::quote(text), "x" + text + text + "y"),
                ElementsAre("x", text, text, "y"));
}

TEST(SplitRegex, HandsOutWhatLiesBetweenMatches) {
  EXPECT_THAT(split("b+", "abbcb"), ElementsAre("a", "bb", "c", "b"));
  EXPECT_THAT(split("z", "abc"), ElementsAre("abc"));
  EXPECT_THAT(split("z", ""), ElementsAre());
}

TEST(SplitRegex, CutsAtMatchesOfNothing) {
  EXPECT_THAT(split("(?=b)", "abab"), ElementsAre("a", "ba", "b"));
  EXPECT_THAT(split("b*", "\u00E9\u00E9"), ElementsAre("\u00E9", "\u00E9"));
}

TEST(SplitRegex, LosesNothingOnRandomText) {
  std::mt19937 generator(1);
  const SplitRegex regex(test::kQwenPattern, "here");
  const std::vector<std::string> characters = {
      "a", "'",      "s",      " ",      "\n",     "\r",         "1",
      "!", "\u00E9", "\u4F60", "\u3000", "\u0301", "\U0001F642", std::string(1, '\0')};
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (int i = 0; i < 40; ++i) text += characters[generator() % characters.size()];
    SplitRegex::Scratch scratch(text.size());
    SplitRegex::Pieces pieces(regex, text, scratch);
    std::string joined;
    for (std::string_view piece; pieces.next(piece);) {
      ASSERT_FALSE(piece.empty());
      joined += piece;
    }
    ASSERT_EQ(joined, text);
  }
}

TEST(SplitRegex, TakesALongRunOfSpacesInOnePiece) {
  EXPECT_THAT(qwen(std::string(1 << 20, ' ') + "x"),
              ElementsAre(std::string((1 << 20) - 1, ' '), " x"));
}

TEST(SplitRegex, KeepsHyphensBesideSetsLiteral) {
  EXPECT_THAT(split(R"([\s-]+)", "a -b"), ElementsAre("a", " -", "b"));
  EXPECT_THAT(split(R"([\p{L}-]+)", "1a-b2"), ElementsAre("1", "a-b", "2"));
}

TEST(SplitRegex, RefusesARangeThatBeginsOrEndsWithASet) {
  for (const char* pattern :
       {"[\\p{L}-\U000E0100]", "[\\s-\u9FFF]", "[!-\\s]", "[!-\\p{N}]", "[\\p{Lu}-\u9FFF]"})
    EXPECT_EQ(test::error_of([&] { SplitRegex(pattern, "here"); }).code(), ErrorCode::kUnsupported)
        << pattern;
}

TEST(SplitRegex, RefusesWhatOnigurumaAndPcre2ReadDifferently) {
  for (const char* pattern :
       {R"(\p{Han})", R"(\p{C})", R"(\p{l})",    R"(\h+)",    R"(\w)",     R"(\R)",   R"(\X)",
        "(?m:a)",     "(?i)a",    "(*UTF)a",     "[a[b]]",    "[a&&b]",    "a{,3}",   "a{2}+",
        "[]a]",       R"([\S])",  R"([^\P{L}])", R"(\pL)",    R"(\p{^L})", R"(\x41)", "\\",
        "[a",         R"(\)",     "(?",          "(?<name>a)"}) {
    const Error error = test::error_of([&] { SplitRegex(pattern, "here"); });
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported) << pattern;
    EXPECT_EQ(error.problems().front().where, "here") << pattern;
  }
}

TEST(SplitRegex, RefusesWhatDoesNotCompile) {
  for (const char* pattern : {"(a", "a)", "*a", R"(\p{NoSuchThing})", "[z-a]", "a{70000}"})
    EXPECT_EQ(test::error_of([&] { SplitRegex(pattern, "here"); }).code(), ErrorCode::kUnsupported)
        << pattern;
  EXPECT_THAT(test::error_of([] { SplitRegex(std::string(1 << 20, '('), "here"); }).what(),
              HasSubstr("bytes"));
}

TEST(SplitRegex, GivesUpOnAPatternThatBacktracksWithoutEnd) {
  const Error error = test::error_of([] { split("(?:a+)+b", std::string(64, 'a') + "cb"); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(error.what(), HasSubstr("too costly"));
}

// Each piece alone stays under what one match may take.
TEST(SplitRegex, GivesUpOnAPatternThatBacktracksALittleOnEveryPieceOfALongText) {
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += std::string(12, 'a') + " ";
  const Error error = test::error_of([&] { split("(?:a+)+b|a+| ", text); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(error.what(), HasSubstr("too costly"));
}

TEST(SplitRegex, KeepsWhatNothingMatchesTogether) {
  EXPECT_THAT(split("[0-9]", "ab\u00e91c\u4f60\u597d23d"),
              ElementsAre("ab\u00e9", "1", "c\u4f60\u597d", "2", "3", "d"));
}

}  // namespace
}  // namespace laos::hf
