#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>

#include "core/error.h"
#include "recipe/recipe.h"

namespace laos::recipe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;
using testing::UnorderedElementsAre;

std::vector<Pattern> patterns(const std::vector<std::string>& texts, const std::string& key) {
  std::vector<Pattern> list;
  for (size_t i = 0; i < texts.size(); ++i) {
    list.push_back(
        {texts[i],
         {.file = "r.yaml", .line = 1, .column = 1, .key = key + "[" + std::to_string(i) + "]"}});
  }
  return list;
}

Strategy strategy(const std::string& key, const std::vector<std::string>& include,
                  const std::vector<std::string>& exclude = {}) {
  return {.scheme = {},
          .include = patterns(include, key + ".include"),
          .exclude = patterns(exclude, key + ".exclude"),
          .location = {.file = "r.yaml", .line = 1, .column = 1, .key = key}};
}

const std::vector<std::string> kNames = {
    "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj",
    "model.layers.1.mlp.down_proj", "lm_head"};

TEST(Assign, GivesALinearToTheFirstStrategyThatIncludesIt) {
  const Assignment assignment = assign(
      {strategy("a", {"*.down_proj", "model.layers.0.*"}), strategy("b", {"*.up_proj"})}, kNames);
  EXPECT_THAT(assignment.strategy_of, UnorderedElementsAre(Pair(kNames[0], 0), Pair(kNames[1], 0),
                                                           Pair(kNames[2], 1), Pair(kNames[3], 0)));
  EXPECT_THAT(assignment.warnings,
              ElementsAre("r.yaml:1:1 b: also matches 1 linear that r.yaml:1:1 a has decided (" +
                          kNames[0] + "); the first strategy stays"));
}

TEST(Assign, LetsExcludeWinOverInclude) {
  const Assignment assignment = assign({strategy("a", {"*"}, {"lm_head", "*.1.*"})}, kNames);
  EXPECT_THAT(assignment.strategy_of, UnorderedElementsAre(Pair(kNames[0], 0), Pair(kNames[1], 0)));
  EXPECT_THAT(assignment.warnings, IsEmpty());
}

TEST(Assign, WarnsOfPatternsThatMatchNothingWithTheNearestName) {
  const Assignment assignment =
      assign({strategy("a", {"*", "*.upproj", "model.layer.1.mlp.up_proj", "*.9.*"}, {"*.q_proj"})},
             kNames);
  EXPECT_THAT(assignment.warnings,
              ElementsAre("r.yaml:1:1 a.include[1]: pattern `*.upproj` matches no linear of the "
                          "model; did you mean `up_proj`?",
                          HasSubstr("did you mean `model.layers.1.mlp.up_proj`?"),
                          "r.yaml:1:1 a.include[3]: pattern `*.9.*` matches no linear of the model",
                          HasSubstr("a.exclude[0]")));
}

TEST(Assign, CountsNegativeLayersFromTheEnd) {
  const Assignment assignment = assign(
      {strategy("a", {"model.layers.-1.*"}), strategy("b", {"*"}, {"*.{-2,-1}.mlp.up_proj"})},
      kNames);
  EXPECT_EQ(assignment.strategy_of,
            (std::map<std::string, size_t>{
                {kNames[1], 1}, {kNames[2], 0}, {kNames[3], 0}, {"lm_head", 1}}));
  EXPECT_THAT(assignment.problems, IsEmpty());
  EXPECT_THAT(assignment.excluded, UnorderedElementsAre(kNames[0], kNames[2]));
}

TEST(Assign, ReportsLayersThatTheModelHasNotAtTheirPattern) {
  const Assignment assignment =
      assign({strategy("a", {"*", "model.layers.{0..4}.mlp.*", "*.1.*"}, {"*.-3.*"})}, kNames);
  ASSERT_EQ(assignment.problems.size(), 2u);
  EXPECT_EQ(assignment.problems[0].where, "r.yaml:1:1 a.include[1]");
  EXPECT_EQ(assignment.problems[0].what,
            "pattern `model.layers.{0..4}.mlp.*` names decoder layer 2 and 2 more, and the model "
            "has 2, from 0 to 1");
  EXPECT_EQ(assignment.problems[1].where, "r.yaml:1:1 a.exclude[0]");
  EXPECT_THAT(assignment.problems[1].what, HasSubstr("names decoder layer -3, and"));
}

TEST(Assign, NeverWarnsOfALoneStar) {
  EXPECT_THAT(assign({strategy("a", {"*"})}, {}).warnings, IsEmpty());
}

TEST(Assign, MarksOnlyTheFirstPatternThatMatchesAsUsed) {
  const Assignment assignment = assign({strategy("a", {"*mlp*", "*.up_proj"})}, kNames);
  EXPECT_THAT(assignment.warnings, ElementsAre(HasSubstr("`*.up_proj` decides nothing")));
}

TEST(Assign, NamesThePlaceOfAPatternWithTooManyAlternatives) {
  try {
    assign({strategy("a", {"{1..1001}"})}, kNames);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.problems().at(0).where, "r.yaml:1:1 a.include[0]");
  }
  EXPECT_THROW(assign({strategy("a", std::vector<std::string>(101, "{1..1000}"))}, kNames), Error);
}

TEST(Assign, IsFastForALargeModelAndTheMostPatterns) {
  std::vector<std::string> names = {"lm_head"};
  for (int layer = 0; layer < 64; ++layer) {
    for (const char* linear :
         {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      names.push_back("model.layers." + std::to_string(layer) + "." + linear);
    }
  }
  const std::clock_t start = std::clock();  // of the processor: others may share it
  const Assignment assignment =
      assign({strategy("a", std::vector<std::string>(40, "model.layers.{100..599}.mlp.*")),
              strategy("b", {"*"})},
             names);
  EXPECT_EQ(assignment.strategy_of.size(), names.size());
  EXPECT_LT(std::clock() - start, 5 * CLOCKS_PER_SEC);
}

}  // namespace
}  // namespace laos::recipe
