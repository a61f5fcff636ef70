// `laos eval --tasks` and `laos loglikelihood` as users run them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>

#include "support/command.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using nlohmann::json;
using test::CommandResult;
using test::run_laos;
using ::testing::AllOf;
using ::testing::HasSubstr;

const std::string kSource = LAOS_SOURCE_DIR;
const std::string kSmall = kSource + "/models/qwen3-tiny";

class Tasks : public testing::Test {
 protected:
  Tasks() : items_((directory_ / "items.jsonl").string()) {
    std::ofstream(items_)
        << R"({"task": "a", "question": "And God said, Let there be", "choices": ["light", "sheep"], "answer": "light"})"
           "\n"
        << R"({"task": "b", "kind": "generate", "prompt": "And it came to", "answer": "pass,"})"
           "\n";
  }
  test::TemporaryDirectory directory_;
  std::string items_;
};

TEST_F(Tasks, AreToldByTaskTheSameOnAnyThreads) {
  const std::string arguments =
      "eval --model-path " + kSmall + " --tasks " + items_ + " --max-new-tokens 2 ";
  const CommandResult text = run_laos(arguments + "--threads 1");
  ASSERT_EQ(text.exit_code, 0) << text.output;
  EXPECT_THAT(text.output, HasSubstr("normalised"));
  EXPECT_EQ(run_laos(arguments + "--threads 3").output, text.output);
  const json figures = json::parse(run_laos(arguments + "--json --baseline " + kSmall).output);
  EXPECT_EQ(figures["accuracy"], 1);
  EXPECT_EQ(figures["tasks"]["a"]["items"], 1);
  EXPECT_EQ(figures["flips"]["changed"], 0);
  EXPECT_EQ(figures["kl"], 0);
  EXPECT_EQ(figures["baseline"]["tasks"]["b"]["accuracy"], 1);
  const CommandResult table = run_laos(arguments + "--model-path " + kSmall);
  EXPECT_THAT(table.output, HasSubstr("checkpoint"));
}

TEST_F(Tasks, RefuseFlagsOfTextsAndAnItemThatIsWrong) {
  const std::string start = "eval --model-path " + kSmall + " ";
  EXPECT_EQ(run_laos(start).exit_code, 2);
  EXPECT_EQ(run_laos(start + "--tasks " + items_ + " --seq-len 12").exit_code, 2);
  EXPECT_EQ(run_laos(start + "--tasks " + items_ + " --text " + items_).exit_code, 2);
  std::ofstream(items_) << "{\"question\": \"a\"}\n";
  const CommandResult wrong = run_laos(start + "--tasks " + items_);
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_THAT(wrong.output, AllOf(HasSubstr("an item of kind choice has no `choices`"),
                                  HasSubstr("items.jsonl:1")));
}

TEST(BundledTasks, Are400WithRightAnswersSpreadEvenly) {
  std::ifstream file(kSource + "/tasks/default.jsonl");
  std::map<int, int> places;
  std::set<std::string> asked;
  int count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    const json item = json::parse(line);
    if (item.contains("choices")) ++places[item["answer"].get<int>()];
    for (const char* key : {"question", "context", "prompt"})
      if (item.contains(key)) asked.insert(item[key].get<std::string>());
  }
  EXPECT_EQ(count, 400);
  EXPECT_EQ(asked.size(), 400U);
  ASSERT_EQ(places.size(), 4U);
  for (const auto& [place, items] : places) EXPECT_NEAR(items, 80, 2) << place;
}

TEST(Loglikelihood, AnswersInOrderAndNamesTheLineThatIsWrong) {
  test::TemporaryDirectory directory;
  const std::string path = (directory / "requests.jsonl").string();
  std::ofstream(path) << R"({"context": "And it came to", "continuation": " pass"})"
                         "\n\n"
                      << R"({"context": "", "continuation": "naught"})"
                         "\n";
  const std::string command = "loglikelihood --model-path " + kSmall + " --input " + path;
  const CommandResult result = run_laos(command);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  std::istringstream lines(result.output);
  std::string first, second;
  std::getline(lines, first);
  std::getline(lines, second);
  EXPECT_NEAR(json::parse(first)["logprob"].get<double>(), -0.0278, 1e-3);
  EXPECT_TRUE(json::parse(first)["greedy"].get<bool>());
  EXPECT_FALSE(json::parse(second)["greedy"].get<bool>());
  std::ofstream(path, std::ios::app) << "{\"context\": \"a\"}\n";
  const CommandResult wrong = run_laos(command);
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_THAT(wrong.output, HasSubstr(first));  // what came before it is answered
  EXPECT_THAT(wrong.output, AllOf(HasSubstr("the request has no string `continuation`"),
                                  HasSubstr("requests.jsonl:4")));
}

}  // namespace
}  // namespace laos::cli
