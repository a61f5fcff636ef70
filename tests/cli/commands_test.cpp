// `laos eval`, `tokenize` and `recipes` as users run them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>

#include "support/command.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using test::CommandResult;
using test::run_laos;
using ::testing::HasSubstr;

class Commands : public testing::Test {
 protected:
  void SetUp() override {
    test::write_synthetic({.config = test::qwen3_config("tiny")}, directory_ / "model");
    std::ofstream(directory_ / "text.txt") << "In the beginning was the word, and more words.";
  }
  std::string path(const std::string& name) const { return (directory_ / name).string(); }
  CommandResult eval(const std::string& more) const {
    return run_laos("eval --model-path " + path("model") + " --text " + path("text.txt") + " " +
                    more);
  }

  test::TemporaryDirectory directory_;
};

TEST_F(Commands, EvalPrintsPerplexityAndJsonWithTheSameFigures) {
  const CommandResult text = eval("--seq-len 8");
  EXPECT_EQ(text.exit_code, 0);
  // 45 bytes, a token each: five windows of 8, the first token of each not scored; the rest is left
  // out.
  EXPECT_THAT(text.output, HasSubstr("over 35 tokens in 5 windows of 8"));
  const auto json = nlohmann::json::parse(eval("--seq_len 8 --json").output);
  EXPECT_EQ(json["tokens"], 35);
  // Random weights: about the vocabulary's size.
  EXPECT_NEAR(json["perplexity"].get<double>(), 320, 100);
  const auto self =
      nlohmann::json::parse(eval("--seq-len 8 --json --baseline " + path("model")).output);
  EXPECT_EQ(self["perplexity"], json["perplexity"]);
  EXPECT_EQ(self["kl"]["max"], 0);
  EXPECT_EQ(self["top1_agreement"], 1);
}

TEST_F(Commands, EvalRunsTheBaselineOnceForTheSameTextAndFiles) {
  const std::string arguments = "--seq-len 8 --json --baseline " + path("model");
  const auto count = [&] {
    const std::filesystem::directory_iterator files(directory_ / "cache");
    return std::distance(begin(files), end(files));
  };
  const std::string expected = eval(arguments + " --no-cache").output;
  EXPECT_FALSE(std::filesystem::exists(directory_ / "cache"));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(eval(arguments + " --cache-dir " + path("cache")).output, expected);
    EXPECT_EQ(count(), 1);
  }
  eval("--seq-len 9 --baseline " + path("model") + " --cache-dir " + path("cache"));
  EXPECT_EQ(count(), 2);
}

TEST_F(Commands, EvalEmulatesTheEngineOnRequestOnly) {
  const auto perplexity = [&](const std::string& more) {
    return nlohmann::json::parse(eval("--seq-len 8 --json" + more).output)["perplexity"]
        .get<double>();
  };
  EXPECT_NE(perplexity(" --emulate vllm-ascend"), perplexity(""));
  EXPECT_NEAR(perplexity(" --emulate vllm-ascend"), perplexity(""), 0.05 * perplexity(""));
  // It changes the steps of quantized inputs alone.
  EXPECT_EQ(perplexity(" --emulate transformers"), perplexity(""));
  EXPECT_EQ(eval("--emulate other").exit_code, 2);
}

TEST_F(Commands, BenchReportsRatesThatFollowFromItsTimes) {
  for (const std::string dtype : {"f32", "bf16"}) {
    const CommandResult result = run_laos(
        "bench --shape tiny --samples 3 --tokens 7 --iters 2 --json --compute-dtype " + dtype);
    ASSERT_EQ(result.exit_code, 0) << result.output;
    const auto json = nlohmann::json::parse(result.output);
    EXPECT_EQ(json["compute_dtype"], dtype);
    const double rate = json["gemm_gflops"], seconds = json["train"]["seconds"];
    EXPECT_GT(rate, 0);
    // tiny: q and o 128 x 64, k and v 64 x 64, gate, up and down 128 x 64. Two products for q, k
    // and v, three for the others, on 21 tokens; six products over 3 * 28 causal pairs of 4 heads
    // of 32.
    const double flops = 2.0 * 21 * (2 * (8192 + 2 * 4096) + 3 * 4 * 8192) + 12.0 * 128 * 84;
    EXPECT_DOUBLE_EQ(json["train"]["flops"].get<double>(), flops);
    EXPECT_NEAR(json["train"]["efficiency"].get<double>(), flops / (1e9 * rate) / seconds, 1e-9);
    EXPECT_NEAR(json["train"]["tokens_per_s"].get<double>() * seconds, 21, 1e-6);
    EXPECT_GT(json["eval"]["tokens_per_s"].get<double>(), 0);
    EXPECT_GT(json["peak_rss_bytes"].get<int64_t>(), 1 << 20);
  }
}

TEST_F(Commands, BenchRunsAWholeJobAndSaysWhereItsTimeGoes) {
  const test::TemporaryDirectory scratch;
  const std::string what =
      "bench --shape tiny --layers 2 --samples 4 --tokens 32 --progress none --tmp " +
      scratch.path().string();
  for (const std::string job : {"fast", "balanced", "full", "rtn"}) {
    const CommandResult result = run_laos(what + " --json --job " + job);
    ASSERT_EQ(result.exit_code, 0) << result.output;
    const auto timings = nlohmann::json::parse(result.output)["timings"];
    std::map<std::string, nlohmann::json> parts;
    double sum = 0;
    for (const auto& part : timings["parts"]) {
      parts[part["name"]] = part;
      sum += part["seconds"].get<double>();
    }
    EXPECT_GT(sum, 0);
    EXPECT_LE(sum + timings["health"].get<double>(), timings["total"].get<double>());
    EXPECT_TRUE(parts.contains("read weights") && parts.contains("write layers"));
    EXPECT_EQ(parts.contains("gptq_quant: inputs"), job != "rtn");
    EXPECT_EQ(parts.contains("fit: steps"), job != "rtn");
    if (job != "fast") continue;
    // Gate and up read 64 inputs in each of both layers: their products over 128 tokens.
    EXPECT_EQ(parts["gptq_quant: inputs"]["flops"], 2 * 2 * 128 * 64 * 64);
    // Factor and feedback of 256 rows, and two rounds of refinement; in 7 digits. A refit is left
    // out for so few tokens.
    const double solving = 2 * (64.0 * 64 * 64 / 3 + 17.0 * 256 * 64 * 64);
    EXPECT_NEAR(parts["gptq_quant"]["flops"].get<double>(), solving, 1e-6 * solving);
  }
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
  const CommandResult table = run_laos(what + " --job fast");
  ASSERT_EQ(table.exit_code, 0) << table.output;
  EXPECT_THAT(table.output, HasSubstr("gptq_quant: inputs"));
  EXPECT_THAT(table.output, HasSubstr("this machine multiplies at"));
}

TEST_F(Commands, BenchRefusesAnUnknownShapeAndDtype) {
  EXPECT_EQ(run_laos("bench --shape tiny --layers 3").exit_code, 2);
  EXPECT_EQ(run_laos("bench --shape tiny --samples 9").exit_code, 2);
  EXPECT_EQ(run_laos("bench --shape tiny --job slow").exit_code, 2);
  EXPECT_EQ(run_laos("bench --shape 9b").exit_code, 2);
  EXPECT_EQ(run_laos("bench --shape tiny --compute-dtype f16").exit_code, 2);
}

TEST_F(Commands, EvalPutsSeveralCheckpointsInOneTable) {
  const std::string two =
      eval("--seq-len 8 --model-path " + path("model") + " --baseline " + path("model")).output;
  EXPECT_THAT(two, HasSubstr("checkpoint"));
  EXPECT_THAT(two, HasSubstr("0.00000 ± 0.00000"));
  const auto json =
      nlohmann::json::parse(eval("--seq-len 8 --json --model-path " + path("model")).output);
  EXPECT_EQ(json["models"].size(), 2u);
  EXPECT_EQ(json["models"][0]["perplexity"], json["models"][1]["perplexity"]);
}

TEST_F(Commands, EvalScoresOverlappingWindowsIdsAndAGivenNumberOfTokens) {
  EXPECT_THAT(eval("--seq-len 8 --stride 4").output,
              HasSubstr("over 43 tokens in 10 windows of 8 every 4"));
  EXPECT_THAT(eval("--seq-len 8 --max-tokens 10").output, HasSubstr("over 10 tokens in 2 windows"));
  const std::string model = "eval --seq-len 8 --json --model-path " + path("model") + " --text ";
  std::ofstream(directory_ / "text.jsonl") << "{\"text\": \"In the beginning\"}\n";
  const std::string ids =
      run_laos("tokenize --model-path " + path("model") + " < " + path("text.jsonl")).output;
  std::ofstream(directory_ / "ids.jsonl") << ids;
  std::ofstream(directory_ / "same.jsonl") << "{\"inputs_pretokenized\": \"In the beginning\"}\n";
  const std::string from_ids = run_laos(model + path("ids.jsonl")).output;
  EXPECT_THAT(from_ids, HasSubstr("\"tokens\": 14"));
  EXPECT_EQ(from_ids, run_laos(model + path("same.jsonl")).output);
}

TEST_F(Commands, EvalRefusesWhatItCannotScore) {
  for (const std::string& flags :
       {std::string("--seq-len 1"), std::string("--stride 0"),
        std::string("--seq-len 8 --stride 9"), std::string("--max-tokens 0"),
        std::string("--seq-len 50"), std::string("--seq-len 1000000"), "--text " + path("none.txt"),
        std::string("--threads 0"), "--baseline " + path("none")}) {
    const CommandResult result = eval(flags);
    EXPECT_GT(result.exit_code, 0) << flags;
    EXPECT_THAT(result.output, HasSubstr("laos: error:")) << flags;
  }
}

TEST_F(Commands, TokenizeReadsLinesAndWritesIdsAndText) {
  std::ofstream(directory_ / "lines.jsonl") << "{\"text\": \"ab\"}\n{\"text\": \"\"}\n";
  const CommandResult result =
      run_laos("tokenize --model-path " + path("model") + " < " + path("lines.jsonl"));
  EXPECT_EQ(result.exit_code, 0);
  std::istringstream lines(result.output);
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  const auto first = nlohmann::json::parse(line);
  EXPECT_EQ(first["ids"].size(), 2u);
  EXPECT_EQ(first["decoded"], "ab");
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(nlohmann::json::parse(line)["ids"].size(), 0u);
  EXPECT_FALSE(std::getline(lines, line));

  std::ofstream(directory_ / "bad.jsonl") << "{\"text\": \"ab\"}\nno json\n";
  const CommandResult bad =
      run_laos("tokenize --model-path " + path("model") + " < " + path("bad.jsonl"));
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.output, HasSubstr("laos: error:"));
}

TEST_F(Commands, AMissingModelIsNamedAsTheHelpNamesIt) {
  EXPECT_THAT(run_laos("calibrate-text --output " + path("own.jsonl")).output,
              HasSubstr("MODEL or --model-path is required"));
  EXPECT_THAT(run_laos("tokenize").output, HasSubstr("error: --model-path is required"));
}

TEST_F(Commands, RecipesListsOneOfEachTypeForEverySize) {
  const auto list = nlohmann::json::parse(run_laos("recipes --json").output);
  std::set<std::string> found;
  for (const auto& recipe : list)
    for (const auto& model : recipe["model_types"])
      for (const auto& type : recipe["quant_types"])
        found.insert(model.get<std::string>() + " " + type.get<std::string>());
  for (const char* size : {"0.6B", "1.7B", "4B", "8B", "14B", "32B"})
    for (const char* type : {"w4a4", "w8a8"})
      EXPECT_TRUE(found.contains(std::string("Qwen3-") + size + " " + type)) << size << type;
  EXPECT_THAT(run_laos("recipes").output, HasSubstr("laos-qwen3-8b-w4a4"));
}

TEST_F(Commands, RecipesOfOnesOwnComeFirst) {
  std::filesystem::create_directories(directory_ / "own" / "qwen3");
  std::ofstream(directory_ / "own" / "qwen3" / "mine.yaml")
      << "apiversion: modelslim_v1\nmetadata: {config_id: mine, score: 1, label: {w_bit: 8, a_bit: "
         "8}, verified_model_types: [mine]}\nspec: {process: [{type: quarot}], save: [{type: "
         "ascendv1_saver}]}\n";
  const std::string quant = "quant --model-path " + path("model") + " --save-path " + path("out") +
                            " --model_type Mine --quant_type w8a8 --dry-run";
  EXPECT_THAT(run_laos(quant).output, HasSubstr("laos-dense-w8a8"));
  EXPECT_THAT(run_laos(quant + " --recipes " + path("own")).output, HasSubstr("mine ("));
  EXPECT_THAT(run_laos(quant, "MSMODELSLIM_CUSTOM_PRACTICE_REPO=" + path("own") + " ").output,
              HasSubstr("mine ("));
  EXPECT_THAT(run_laos("recipes --recipes " + path("own")).output, HasSubstr("mine.yaml"));
  const CommandResult missing = run_laos("recipes --recipes " + path("none"));
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_THAT(missing.output, HasSubstr("is not a directory of recipes"));
}

}  // namespace
}  // namespace laos::cli
