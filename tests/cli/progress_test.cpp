// What people see on a terminal while laos works.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "support/command.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class OnATerminal : public testing::Test {
 protected:
  void SetUp() override {
    test::write_synthetic({.config = test::qwen3_config("tiny")}, directory_ / "model");
    std::ofstream(directory_ / "text.txt") << "In the beginning was the word, and more words.";
    std::ofstream(directory_ / "calib.jsonl")
        << R"({"inputs_pretokenized": "In the beginning was the word, and there were more of them."})";
    std::ofstream(directory_ / "recipe.yaml") << R"(apiversion: modelslim_v1
spec:
  prior:
    - process: [{type: adapt_rotation, stage: 1, steps: 12}]
  process:
    - {type: adapt_rotation, stage: 2}
    - type: linear_quant
      qconfig:
        weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
        act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)";
  }
  std::string path(const std::string& name) const { return (directory_ / name).string(); }
  std::string quant(const std::string& more = "") const {
    return "quant --model-path " + path("model") + " --save-path " + path("out") +
           " --config-path " + path("recipe.yaml") + " --dataset " + path("calib.jsonl") + " " +
           more;
  }

  test::TemporaryDirectory directory_;
};

TEST_F(OnATerminal, StepsOfTheRotationAreOneLine) {
  const test::CommandResult result = test::run_laos_on_terminal(quant());
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("fit rotation 12/12"));
  EXPECT_THAT(result.output, Not(HasSubstr("fit rotation 3/12")));
  // The line that is drawn over tells the same.
  EXPECT_THAT(result.output, HasSubstr("fit rotation  25 %  loss"));
}

// No layer has a note where nothing is trained: hours of silence in a log otherwise.
TEST_F(OnATerminal, AndInAFileALayerIsALine) {
  const std::string output = test::run_laos(quant()).output;
  EXPECT_THAT(output, HasSubstr("quantize 1/2"));
  EXPECT_THAT(output, HasSubstr("quantize 2/2"));
}

TEST_F(OnATerminal, TheCheckpointIsSavedBeforeItIsCheckedAndTheCheckGoesOn) {
  const std::string output = test::run_laos_on_terminal(quant()).output;
  EXPECT_LT(output.find("saved "), output.find("health check"));
  EXPECT_LT(output.find("report "), output.find("health check"));
  // Before the layers, two layers, behind them, and the continuations of two models.
  EXPECT_THAT(output, HasSubstr("health check 6/6"));
}

TEST_F(OnATerminal, EvalShowsHowFarItIsAndAPipeGetsTheFiguresAlone) {
  const std::string eval = "eval --no-cache --seq-len 8 --model-path " + path("model") +
                           " --baseline " + path("model") + " --text " + path("text.txt");
  const std::string output = test::run_laos_on_terminal(eval).output;
  EXPECT_THAT(output, HasSubstr("eval " + path("model")));
  EXPECT_THAT(output, HasSubstr(" 33 %"));  // one layer of two, and the vocabulary
  EXPECT_THAT(test::run_laos(eval).output, Not(HasSubstr("%  ")));
}

TEST_F(OnATerminal, NoPartOfALineStandsAlone) {
  // "12 %  , 2 min left"
  for (const std::string& output :
       {test::run_laos_on_terminal(quant()).output,
        test::run_laos_on_terminal("check " + path("out") + " --baseline " + path("model")).output})
    EXPECT_THAT(output, Not(HasSubstr("  ,")));
}

TEST_F(OnATerminal, ADryRunShowsThePlanAndWhatWouldRefuseIt) {
  const test::CommandResult plan = test::run_laos(quant("--dry-run --max-memory 10MB"));
  EXPECT_EQ(plan.exit_code, 1) << plan.output;
  EXPECT_THAT(plan.output, HasSubstr("W8A8_DYNAMIC"));
  EXPECT_THAT(plan.output, HasSubstr("refused   the run needs about "));
  EXPECT_THAT(plan.output, HasSubstr("may take 10.0 MB"));
  EXPECT_THAT(plan.output, HasSubstr("samples   0, 0 tokens; for the rotation alone 1, "));
  EXPECT_THAT(plan.output, HasSubstr(", the health check "));
  const test::CommandResult run = test::run_laos(quant("--max-memory 10MB"));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.output, Not(HasSubstr("W8A8_DYNAMIC")));
  ASSERT_EQ(test::run_laos(quant("--no-health")).exit_code, 0);
  const test::CommandResult again = test::run_laos(quant("--dry-run"));
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_THAT(again.output, HasSubstr("refused   a finished checkpoint is here already"));
}

TEST_F(OnATerminal, StatusTellsOfTheLayerAtWork) {
  const std::filesystem::path work = directory_ / "out/.laos-partial";
  std::filesystem::create_directories(work);
  std::ofstream(work / "state.json")
      << R"({"identity": {"seed": "42"}, "stamps": {}, "parts": {"layer": 8}})";
  std::ofstream(work / "now.json") << R"({"part": "quantize", "layer": 3, "iteration": 120,
    "iterations": 400, "share": 0.287, "layer_seconds_left": 180.2, "seconds_left": 4800})";
  const int lock = ::open(work.c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  const std::string status = "status " + path("out");
  EXPECT_THAT(
      test::run_laos(status).output,
      HasSubstr("at work    quantize 29 %, layer 3, iteration 120 of 400, 3 min left of the "
                "layer, 80 min left in all"));
  const auto json = nlohmann::json::parse(test::run_laos(status + " --json").output);
  EXPECT_EQ(json["at_work"]["iteration"], 120);
  std::ofstream(work / "now.json") << "half a te";
  EXPECT_THAT(test::run_laos(status).output, Not(HasSubstr("at work    ")));
  ::close(lock);
  EXPECT_THAT(test::run_laos(status).output, HasSubstr("interrupted"));
}

}  // namespace
}  // namespace laos::cli
