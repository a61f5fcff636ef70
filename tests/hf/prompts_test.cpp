#include "hf/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using test::error_of;
using testing::HasSubstr;

class Prompts : public testing::Test {
 protected:
  std::vector<Prompt> read(const std::string& name, const std::string& text) const {
    return load_prompts(directory_.write(name, text));
  }
  std::string problem(const std::string& name, const std::string& text) const {
    const Error error = error_of([&] { read(name, text); });
    EXPECT_EQ(error.code(), ErrorCode::kData);
    return error.what();
  }
  test::TempDirectory directory_;
};

TEST_F(Prompts, AreLinesObjectsMessagesOrIds) {
  const std::vector<Prompt> lines = read("p.txt", "one\r\n\n  two \n{\"prompt\": 3}");
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0].text, "one");
  EXPECT_EQ(lines[1].text, "  two ");
  EXPECT_EQ(lines[2].text, "{\"prompt\": 3}");

  const std::vector<Prompt> objects =
      read("p.jsonl",
           "\"a\\nb\"\n{\"prompt\": \"c\"}\n\n{\"ids\": [5, 6]}\n"
           "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, "
           "{\"content\": \"u\", \"role\": \"user\"}]}\n");
  ASSERT_EQ(objects.size(), 4U);
  EXPECT_EQ(objects[0].text, "a\nb");
  EXPECT_EQ(objects[1].text, "c");
  EXPECT_EQ(objects[2].ids, (std::vector<int32_t>{5, 6}));
  ASSERT_EQ(objects[3].messages.size(), 2U);
  EXPECT_EQ(objects[3].messages[1].role, "user");
  EXPECT_EQ(objects[3].messages[1].content, "u");

  EXPECT_EQ(read("p.json", "[\"a\", {\"prompt\": \"b\"}]").size(), 2U);
}

TEST_F(Prompts, ThatAreNoneAreRefusedWithTheirPlace) {
  EXPECT_THAT(problem("p.jsonl", "\"a\"\n{\"text\": \"b\"}"), HasSubstr("p.jsonl:2"));
  EXPECT_THAT(problem("p.jsonl", "{\"prompt\": \"a\", \"n\": 1}"), HasSubstr("no prompt"));
  EXPECT_THAT(problem("p.jsonl", "{\"prompt\": \"\"}"), HasSubstr("empty"));
  EXPECT_THAT(problem("p.jsonl", "{\"ids\": [-1]}"), HasSubstr("token ids"));
  EXPECT_THAT(problem("p.jsonl", "{\"messages\": [{\"role\": \"user\", \"tool_calls\": []}]}"),
              HasSubstr("tool_calls"));
  EXPECT_THAT(problem("p.jsonl", "{\"prompt\": "), HasSubstr("p.jsonl:1"));
  EXPECT_THAT(problem("p.json", "[\"a\", 1]"), HasSubstr("item 2"));
  EXPECT_THAT(problem("p.json", "{}"), HasSubstr("list"));
  EXPECT_THAT(problem("p.txt", "good\n\xFF\n"), HasSubstr("p.txt:2"));
  EXPECT_THAT(problem("p.txt", "\n \n"), HasSubstr("no prompt"));
}

}  // namespace
}  // namespace laos::hf
