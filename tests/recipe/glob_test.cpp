#include "recipe/glob.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <string>

#include "core/error.h"
#include "support/words.h"

namespace laos::recipe {
namespace {

using testing::ElementsAre;

struct MatchCase {
  const char* pattern;
  const char* name;
  bool is_match;
};

class Glob : public testing::TestWithParam<MatchCase> {};

const auto kName = [](const auto& p) {
  return test::as_word(
      std::string(p.param.pattern) + (p.param.is_match ? " takes " : " leaves ") + p.param.name,
      p.index);
};

TEST_P(Glob, MatchesAsTheTableOfTheSpecSays) {
  EXPECT_EQ(matches(GetParam().pattern, GetParam().name), GetParam().is_match)
      << "pattern " << GetParam().pattern << ", name " << GetParam().name;
}

INSTANTIATE_TEST_SUITE_P(
    Star, Glob,
    testing::Values(MatchCase{"*", "model.layers.3.mlp.up_proj", true},
                    MatchCase{"*.up_proj", "model.layers.3.mlp.up_proj", true},
                    MatchCase{"*self_attn*", "model.layers.3.self_attn.q_proj", true},
                    MatchCase{"a*b", "a/x/b", true}, MatchCase{"a*b", "ab", true},
                    MatchCase{"a*b*c", "a_b_b_c", true}, MatchCase{"a*b*c", "a_b_b_d", false},
                    MatchCase{"*", ".hidden", false}, MatchCase{"*hidden", ".hidden", false},
                    MatchCase{".*", ".hidden", true}, MatchCase{"\\.*", ".hidden", true}),
    kName);
INSTANTIATE_TEST_SUITE_P(QuestionMark, Glob,
                         testing::Values(MatchCase{"layers.?.x", "layers.3.x", true},
                                         MatchCase{"layers.?.x", "layers.12.x", false},
                                         MatchCase{"layers.??.x", "layers.12.x", true},
                                         MatchCase{"a?b", "a/b", true}, MatchCase{"?", "", false},
                                         MatchCase{"?a", ".a", false},
                                         MatchCase{"?", "\xC3\xA9", true}),
                         kName);  // one character, two bytes
INSTANTIATE_TEST_SUITE_P(
    Class, Glob,
    testing::Values(MatchCase{"[abc]", "b", true}, MatchCase{"[abc]", "d", false},
                    MatchCase{"l.[0-5].x", "l.5.x", true}, MatchCase{"l.[0-5].x", "l.6.x", false},
                    MatchCase{"[!0-2]", "3", true}, MatchCase{"[!0-2]", "1", false},
                    MatchCase{"[]]", "]", true}, MatchCase{"[!]]", "a", true},
                    MatchCase{"[a-]", "-", true}, MatchCase{"[c-a]", "b", false},
                    MatchCase{"[\\]]", "]", true}, MatchCase{"[.]a", ".a", false},
                    MatchCase{"[\xC3\xA9]", "\xC3\xA9", true}, MatchCase{"[ab", "[ab", true},
                    MatchCase{"[ab", "a", false}),
    kName);
INSTANTIATE_TEST_SUITE_P(Escape, Glob,
                         testing::Values(MatchCase{"a\\*", "a*", true},
                                         MatchCase{"a\\*", "ab", false},
                                         MatchCase{"\\{1,2}", "{1,2}", true},
                                         MatchCase{"\\{1,2}", "1", false},
                                         MatchCase{"\\a", "a", true}),
                         kName);
INSTANTIATE_TEST_SUITE_P(
    Braces, Glob,
    testing::Values(MatchCase{"l.{1,2,3}.x", "l.2.x", true},
                    MatchCase{"l.{1,2,3}.x", "l.4.x", false},
                    MatchCase{"l.{1,{4..6}}", "l.5", true}, MatchCase{"l.{1,{4..6}}", "l.1", true},
                    MatchCase{"l.{1,{4..6}}", "l.3", false}, MatchCase{"l{,3}", "l", true},
                    MatchCase{"l{3,}", "l3", true}, MatchCase{"l{1..5}", "l5", true},
                    MatchCase{"l{1..5}", "l6", false}, MatchCase{"l{01..10}", "l07", true},
                    MatchCase{"l{01..10}", "l7", false}, MatchCase{"l{2..10..2}", "l6", true},
                    MatchCase{"l{2..10..2}", "l5", false}, MatchCase{"l{a..d}", "lc", true},
                    MatchCase{"l{a..d}", "le", false}, MatchCase{"l{3}", "l3", false},
                    MatchCase{"l{3}", "l{3}", true}),
    kName);
INSTANTIATE_TEST_SUITE_P(NothingSpecial, Glob,
                         testing::Values(MatchCase{"!a", "!a", true}, MatchCase{"!a", "b", false},
                                         MatchCase{"@(a|b)", "a", false},
                                         MatchCase{"@(a|b)", "@(a|b)", true},
                                         MatchCase{"a|b", "a", false},
                                         MatchCase{"a|b", "a|b", true}),
                         kName);
INSTANTIATE_TEST_SUITE_P(Whole, Glob,
                         testing::Values(MatchCase{"up_proj", "model.up_proj", false},
                                         MatchCase{"model", "model.up_proj", false},
                                         MatchCase{"*.UP_PROJ", "model.up_proj", false},
                                         MatchCase{"l[3]", "l[3]", true}),
                         kName);  // equal is a match

TEST(ExpandBraces, KeepsTheOrderTheyAreWrittenIn) {
  EXPECT_THAT(expand_braces("a{3,1}b{x,y}"), ElementsAre("a3bx", "a3by", "a1bx", "a1by"));
  EXPECT_THAT(expand_braces("{5..1..2}"), ElementsAre("5", "3", "1"));
  EXPECT_THAT(expand_braces("{-1..1}"), ElementsAre("-1", "0", "1"));
  EXPECT_THAT(expand_braces("{-02..1}"), ElementsAre("-02", "-01", "000", "001"));
  EXPECT_THAT(expand_braces("{1..3..0}"), ElementsAre("1", "2", "3"));
}

TEST(ExpandBraces, LeavesBracesWithoutPartnerOrChoiceLiteral) {
  EXPECT_THAT(expand_braces("{{1,2}}"), ElementsAre("{1}", "{2}"));
  EXPECT_THAT(expand_braces("{a,{b,c}"), ElementsAre("{a,b", "{a,c"));
  EXPECT_THAT(expand_braces("{a,b}}"), ElementsAre("a}", "b}"));
  EXPECT_THAT(expand_braces("{}"), ElementsAre("{}"));
  EXPECT_THAT(expand_braces("{1..a}"), ElementsAre("{1..a}"));
  EXPECT_THAT(expand_braces("${1,2}"), ElementsAre("${1,2}"));
}

TEST(ExpandBraces, AllowsAThousandAlternativesAndRefusesMore) {
  EXPECT_EQ(expand_braces("{1..1000}").size(), 1000u);
  for (const char* pattern :
       {"{1..1001}", "{1..999999999}", "{0..9}{0..9}{0..9}{0,1}", "{{1..999},a,b}"}) {
    try {
      expand_braces(pattern);
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kRecipe);
      EXPECT_THAT(error.what(), testing::HasSubstr("more than 1000 alternatives"));
    }
  }
}

TEST(ExpandBraces, TakesNoTimeForBracesThatNeverClose) {
  const std::string open(100'000, '{');
  EXPECT_THAT(expand_braces(open), ElementsAre(open));
}

TEST(ExpandBraces, RefusesNestingThatWouldEndTheStack) {
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += "{a,";
  nested.append(100'000, '}');
  EXPECT_THROW(expand_braces(nested), Error);
}

TEST(MatchesGlob, TakesNoExponentialTimeForManyStars) {
  std::string pattern;
  for (int i = 0; i < 100; ++i) pattern += "*a";
  const std::clock_t start = std::clock();  // of the processor: others may share it
  EXPECT_FALSE(matches_glob(pattern + "b", std::string(1000, 'a')));
  EXPECT_LT(std::clock() - start, 1 * CLOCKS_PER_SEC);
}

}  // namespace
}  // namespace laos::recipe
