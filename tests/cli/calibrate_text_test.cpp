// `laos calibrate-text` as users run it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/command.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::CommandResult;
using test::run_laos;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const fs::path kSource = LAOS_SOURCE_DIR;
const fs::path kTinyModel = kSource / "models/qwen3-tiny";

class CalibrateTextCommand : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return (directory_ / name).string(); }
  // Into the file `name`, which is returned.
  std::string written(const std::string& name, const std::string& arguments,
                      const fs::path& model = kTinyModel) const {
    const CommandResult result =
        run_laos("calibrate-text " + model.string() + " -o " + path(name) + " " + arguments);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    std::stringstream content;
    content << std::ifstream(path(name)).rdbuf();
    return content.str();
  }
  static std::vector<json> lines_of(const std::string& text) {
    std::vector<json> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
    return lines;
  }
  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_.path()))
      names.insert(entry.path().filename().string());
    return names;
  }
  test::TemporaryDirectory directory_;
};

TEST_F(CalibrateTextCommand, WritesTheSameOnAnyThreadsAndBatchesAndAnotherForASeed) {
  const std::string some = "--nsamples 9 --seqlen 24 ";
  const std::string expected = written("a", some + "--threads 1");
  EXPECT_EQ(written("b", some + "--threads 3 --batch 2"), expected);
  EXPECT_NE(written("c", some + "--seed 7"), expected);
  EXPECT_NE(written("d", some + "--temperature 0.5"), expected);
}

TEST_F(CalibrateTextCommand, BeginsWithVariedWordsOfTheVocabulary) {
  const std::vector<json> lines = lines_of(written("text.jsonl", "--nsamples 16 --seqlen 12"));
  ASSERT_EQ(lines.size(), 16U);
  std::set<int> first;
  for (const json& line : lines) {
    EXPECT_LE(line["input_ids"].size(), 12U);
    first.insert(line["input_ids"][0].get<int>());
    EXPECT_LT(line["input_ids"][0], 4093);  // special tokens follow
    EXPECT_FALSE(line["text"].get<std::string>().empty());
  }
  EXPECT_GT(first.size(), 12U);
}

TEST_F(CalibrateTextCommand, WritesWhatQuantReadsAsItsDataset) {
  written("text.jsonl", "--nsamples 6 --seqlen 32");
  const CommandResult plan =
      run_laos("quant --model-path " + kTinyModel.string() + " --save-path " + path("out") +
               " --config-path " + (kSource / "recipes/qwen3-tiny-w4a4.yaml").string() +
               " --hold-back 0 --dry-run --dataset " + path("text.jsonl"));
  EXPECT_THAT(plan.output, HasSubstr("samples   6, "));
}

TEST_F(CalibrateTextCommand, WritesConversationsWhereTheModelHasAChatFormat) {
  const fs::path model = directory_ / "chat";
  fs::copy(kTinyModel, model);
  fs::copy_file(kSource / "tests/golden/chat/chatml.jinja", model / "chat_template.jinja");
  const std::string some = "--nsamples 5 --seqlen 48 ";
  for (const json& line : lines_of(written("text.jsonl", some, model))) {
    EXPECT_LE(line["input_ids"].size(), 48U);
    EXPECT_THAT(line["text"].get<std::string>(),
                AllOf(StartsWith("<|im_start|>user\n"), HasSubstr("<|im_start|>assistant\n")));
  }
  EXPECT_EQ(written("base.jsonl", some + "--base", model), written("tiny.jsonl", some));
}

TEST_F(CalibrateTextCommand, LeavesNoFileWhereItIsStopped) {
  for (const std::string signal : {"TERM", "KILL"}) {
    const CommandResult result = run_laos("calibrate-text " + kTinyModel.string() + " -o " +
                                              path("text.jsonl") + " --nsamples 100000",
                                          "timeout -s " + signal + " 4 ");
    EXPECT_NE(result.exit_code, 0);
    if (signal == "TERM") {
      EXPECT_THAT(result.output, HasSubstr("nothing is written"));
    }
    EXPECT_THAT(files(), testing::IsEmpty());
  }
}

TEST_F(CalibrateTextCommand, RefusesWhatItCannotWriteBeforeItBegins) {
  const auto refused = [&](const std::string& output) {
    const CommandResult result =
        run_laos("calibrate-text " + kTinyModel.string() + " --nsamples 100000 -o " + output);
    EXPECT_NE(result.exit_code, 0);
    return result.output;
  };
  std::ofstream(directory_ / "mine") << "text";
  EXPECT_THAT(refused(path("mine")), HasSubstr("the file is there already"));
  EXPECT_THAT(refused(path("no/such/file")), HasSubstr("there is no such directory"));
  EXPECT_EQ(files(), std::set<std::string>{"mine"});
}

}  // namespace
}  // namespace laos::cli
