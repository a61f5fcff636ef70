#include "hf/task_items.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "core/error.h"
#include "support/temporary_directory.h"

namespace laos::hf {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class TaskItems : public testing::Test {
 protected:
  std::vector<TaskItem> read(const std::string& text) {
    const std::string path = (directory_ / "items.jsonl").string();
    std::ofstream(path) << text;
    return read_task_items(path);
  }
  std::string refusal(const std::string& lines) {
    try {
      read(lines);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kData);
      std::string text;
      for (const Problem& problem : error.problems())
        text += problem.where + ": " + problem.what + "; " + problem.fix + "\n";
      return text;
    }
    return "";
  }
  test::TemporaryDirectory directory_;
};

TEST_F(TaskItems, OfAllKindsAreReadWithAnAnswerByNumberOrByText) {
  const std::vector<TaskItem> items = read(
      R"({"question": "a", "choices": ["x", "y"], "answer": 1})"
      "\n\n"
      R"({"task": "t", "question": "b", "choices": ["x", "1"], "answer": "1", "delimiter": ""})"
      "\n"
      R"({"kind": "cloze", "context": "c", "target": "d", "id": 7})"
      "\n"
      R"({"kind": "generate", "prompt": "e", "answer": "f"})");
  ASSERT_EQ(items.size(), 4U);
  EXPECT_EQ(items[0].kind, TaskKind::kChoice);
  EXPECT_THAT(items[0].answers, ElementsAre("x", "y"));
  EXPECT_EQ(items[0].right, 1U);
  EXPECT_EQ(items[0].delimiter, " ");
  EXPECT_EQ(items[1].task, "t");
  EXPECT_EQ(items[1].right, 1U);
  EXPECT_EQ(items[1].delimiter, "");
  EXPECT_THAT(items[1].where, HasSubstr("items.jsonl:3"));
  EXPECT_EQ(items[2].kind, TaskKind::kCloze);
  EXPECT_EQ(items[2].context, "c");
  EXPECT_THAT(items[2].answers, ElementsAre("d"));
  EXPECT_EQ(items[3].kind, TaskKind::kGenerate);
  EXPECT_EQ(items[3].context, "e");
  EXPECT_THAT(items[3].answers, ElementsAre("f"));
}

TEST_F(TaskItems, ThatAreWrongAreToldAllAtOnceAndLikeOnesTogether) {
  const std::string text = refusal(
      "{\"choices\": [\"x\", \"y\"], \"answer\": 2}\n"
      "{\"question\": \"a\"}\n"
      "{\"question\": \"b\"}\n"
      "not json\n"
      "[1]\n"
      "{\"question\": \"a\", \"choices\": [\"x\", \"x\"], \"answer\": 0}\n"
      "{\"question\": \"a\", \"choices\": [\"x\", \"y\"], \"answer\": \"z\"}\n"
      "{\"question\": \"a\", \"choices\": [\"x\", \"y\"], \"answer\": true}\n"
      "{\"question\": \"a\", \"choices\": [\"x\"], \"answer\": 0}\n"
      "{\"kind\": \"cloze\", \"target\": \" \"}\n"
      "{\"kind\": \"essay\"}\n");
  EXPECT_THAT(text, HasSubstr("items.jsonl:1: an item of kind choice has no `question`"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:1: `answer` is the number of no choice"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:2, and 1 more like it: an item of kind choice has no "
                              "`choices`"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:4: not valid JSON"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:5: the line is no JSON object"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:6: two choices are the same"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:7: `answer` is none of the choices"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:8: `answer` is neither"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:9: `choices` is no list of two or more texts"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:10: an item of kind cloze has no `context`"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:10: `target` is no string with something in it"));
  EXPECT_THAT(text, HasSubstr("items.jsonl:11: `kind` is none that laos knows"));
  EXPECT_THAT(text, HasSubstr("write `choice`, `cloze` or `generate`"));
  EXPECT_THAT(text, Not(HasSubstr("items.jsonl:3")));
  EXPECT_THAT(refusal("\n"), HasSubstr("there is no item"));
}

}  // namespace
}  // namespace laos::hf
