#include "hf/jsonl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Optional;

TEST(Jsonl, FindsTheFieldOfTheOutermostObjectOnly) {
  EXPECT_THAT(
      string_field(R"({"a": {"text": "no"}, "b": ["text", {"text": 1}], "text": "yes\u00e9"})",
                   "text", "f:1"),
      Optional(std::string("yes\u00E9")));
  EXPECT_EQ(string_field(R"({"a": {"text": "no"}})", "text", "f:1"), std::nullopt);
  EXPECT_EQ(string_field("{}", "text", "f:1"), std::nullopt);
}

TEST(Jsonl, LetsTheLaterOfTwoEqualFieldsCount) {
  EXPECT_THAT(string_field(R"({"text": "a", "text": "b"})", "text", "f:1"),
              Optional(std::string("b")));
}

TEST(Jsonl, RefusesWhatIsNoObjectOrNoString) {
  for (const char* line : {"", "[]", "1", "\"text\"", "null", R"({"text": 1})", R"({"text": null})",
                           R"({"text": {}})", R"({"text": ["a"]})", R"({"text": "a")",
                           R"({"text": "a"} x)", "{\"text\": \"\xFF\"}", R"({"text": "\ud800"})"}) {
    const Error error = test::error_of([&] { string_field(line, "text", "f:7"); });
    EXPECT_EQ(error.code(), ErrorCode::kData) << line;
    EXPECT_EQ(error.problems().front().where, "f:7") << line;
  }
}

TEST(Jsonl, TakesDeepNestingInItsStride) {
  const std::string deep(1'000'000, '[');
  EXPECT_THROW(string_field("{\"a\": " + deep, "text", "f:1"), Error);
  EXPECT_THAT(string_field("{\"a\": " + deep + std::string(deep.size(), ']') + R"(, "text": "b"})",
                           "text", "f:1"),
              Optional(std::string("b")));
}

TEST(StringList, ReadsAListOfStrings) {
  EXPECT_THAT(string_list(R"(["a", "", "b\n"])", "f"), ElementsAre("a", "", "b\n"));
  EXPECT_THAT(string_list("[]", "f"), ElementsAre());
}

TEST(StringList, NamesTheItemThatIsNoString) {
  EXPECT_THAT(test::error_of([] { string_list(R"(["a", ["b"]])", "f"); }).what(),
              HasSubstr("item 1"));
  EXPECT_THAT(test::error_of([] { string_list(R"(["a", "b", 3])", "f"); }).what(),
              HasSubstr("item 2"));
  EXPECT_THROW(string_list(R"({"a": "b"})", "f"), Error);
  EXPECT_THROW(string_list(R"(["a")", "f"), Error);
}

}  // namespace
}  // namespace laos::hf
