// `laos generate` as users run it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "support/command.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using nlohmann::json;
using test::CommandResult;
using test::run_laos;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const std::string kRoot = LAOS_SOURCE_DIR;
const std::string kTiny = kRoot + "/models/qwen3-tiny";

// Its standard output.
CommandResult generate(const std::string& arguments, const std::string& model = kTiny) {
  return run_laos("generate --model-path " + model + " " + arguments + " 2>/dev/null )", "( ");
}

TEST(GenerateCommand, StreamsTheTextAndNothingElseToStdout) {
  const CommandResult text = generate("--prompt 'In the beginning' --max-new-tokens 12");
  ASSERT_EQ(text.exit_code, 0);
  const json object =
      json::parse(generate("--prompt 'In the beginning' --max-new-tokens 12 --json").output);
  EXPECT_EQ(text.output, object["results"][0]["text"].get<std::string>() + "\n");
  EXPECT_EQ(object["results"][0]["prompt"], "In the beginning");
  EXPECT_EQ(object["results"][0]["ids"].size(), 12U);
  EXPECT_EQ(object["results"][0]["finish"], "length");
  const CommandResult all =
      run_laos("generate --model-path " + kTiny + " --prompt a --max-new-tokens 3");
  EXPECT_THAT(all.output, HasSubstr("memory    weights 14.7 MB, KV cache"));
  EXPECT_THAT(all.output, HasSubstr("speed     first token after"));
}

TEST(GenerateCommand, IsTheSameWithoutCacheOnAnyThreadsAndForASeed) {
  const std::string prompts = "--prompt 'And God said' --prompt 'The' --max-new-tokens 16 --json ";
  const std::string sampled = prompts + "--temperature 0.9 --top-p 0.95 --top-k 40 --seed 7 ";
  for (const std::string& arguments : {prompts, sampled}) {
    const std::string expected = generate(arguments + "--threads 1").output;
    EXPECT_EQ(generate(arguments + "--threads 3").output, expected);
    EXPECT_EQ(generate(arguments + "--no-kv-cache --batch 1").output, expected);
  }
  EXPECT_NE(generate(sampled).output, generate(prompts).output);
  EXPECT_NE(generate(sampled + "--seed 8").output, generate(sampled).output);
}

class SlowGenerateQuantized : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::TemporaryDirectory;
    for (const std::string recipe : {"w4a4-rtn", "w8a8"}) {
      const CommandResult quantized = run_laos(
          "quant --model-path " + kTiny + " --save-path " + path(recipe) + " --config-path " +
          kRoot + "/recipes/qwen3-tiny-" + recipe + ".yaml --no-health");
      ASSERT_EQ(quantized.exit_code, 0) << quantized.output;
    }
  }
  static void TearDownTestSuite() { delete directory_; }
  static std::string path(const std::string& name) { return (*directory_ / name).string(); }
  static inline test::TemporaryDirectory* directory_ = nullptr;
};

TEST_F(SlowGenerateQuantized, IsTheSameWithoutCacheAndStandsBesideItsBaseline) {
  const std::string arguments =
      "--prompt 'And God said' --max-new-tokens 24 --json --baseline " + kTiny + " ";
  for (const std::string recipe : {"w4a4-rtn", "w8a8"}) {
    const std::string output = generate(arguments, path(recipe)).output;
    EXPECT_EQ(generate(arguments + "--no-kv-cache --threads 3", path(recipe)).output, output);
    const json result = json::parse(output)["results"][0];
    const json alone =
        json::parse(generate("--prompt 'And God said' --max-new-tokens 24 --json").output);
    EXPECT_EQ(result["baseline"]["text"], alone["results"][0]["text"]);
    const auto& a = result["ids"];
    const auto& b = result["baseline"]["ids"];
    size_t same = 0;
    while (same < a.size() && a[same] == b[same]) ++same;
    EXPECT_EQ(result["same_tokens"], same);
  }
  const CommandResult text =
      generate("--prompt 'And God said' --max-new-tokens 4 --baseline " + kTiny, path("w8a8"));
  EXPECT_THAT(text.output, StartsWith("prompt    And God said\nbaseline  "));
  EXPECT_THAT(text.output, HasSubstr("same      the first "));
}

TEST(GenerateCommand, PutsPromptsIntoTheChatFormat) {
  const auto prompt = [](const std::string& arguments) {
    return json::parse(
        generate(arguments + " --max-new-tokens 1 --json").output)["results"][0]["prompt"];
  };
  EXPECT_EQ(prompt("--chat --prompt Hi"),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(prompt("--chat --no-thinking --system S --prompt Hi"),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n");
  EXPECT_EQ(prompt("--chat --thinking --prompt Hi"), prompt("--chat --prompt Hi"));

  const test::TemporaryDirectory directory;
  std::ofstream(directory / "p.jsonl")
      << R"({"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}, )"
      << R"({"role": "user", "content": "C"}]})";
  EXPECT_EQ(prompt("--chat --prompt-file " + (directory / "p.jsonl").string()),
            "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n");

  // A tokenizer without the format's tokens.
  test::write_synthetic({.config = test::qwen3_config("tiny")}, directory / "model");
  const CommandResult refused =
      run_laos("generate --chat --prompt Hi --model-path " + (directory / "model").string());
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.output, HasSubstr("no tokens of this model's tokenizer"));
}

// A prompt and a line for `laos tokenize` begin alike.
TEST(GenerateCommand, BeginsAPromptButNoConversationWithTheTokenThatTheModelExpects) {
  const test::TemporaryDirectory directory;
  const std::string model = (directory / "model").string();
  std::filesystem::copy(kTiny, model);
  json config = json::parse(std::ifstream(kTiny + "/tokenizer_config.json"));
  config["bos_token"] = "<|im_end|>";
  config["add_bos_token"] = true;
  std::ofstream(model + "/tokenizer_config.json") << config;
  const std::string line = (directory / "line.jsonl").string();
  std::ofstream(line) << R"({"text": "In"})";

  const auto prompt = [&](const std::string& flags, const std::string& of) {
    return json::parse(
        generate(flags + " --max-new-tokens 1 --json", of).output)["results"][0]["prompt"];
  };
  const auto tokenized = [&](const std::string& flags, const std::string& of) {
    return json::parse(
        run_laos("tokenize " + flags + " --model-path " + of + " < " + line).output)["decoded"];
  };
  for (const auto& text : {prompt("--prompt In", model), tokenized("", model)})
    EXPECT_EQ(text, "<|im_end|>In");
  for (const auto& text : {prompt("--no-bos --prompt In", model), tokenized("--no-bos", model),
                           prompt("--prompt In", kTiny), tokenized("", kTiny)})
    EXPECT_EQ(text, "In");
  EXPECT_EQ(prompt("--prompt '<|im_end|>In'", model), "<|im_end|>In");
  EXPECT_EQ(prompt("--chat --prompt In", model), prompt("--chat --prompt In", kTiny));

  config["add_bos_token"] = false;
  std::ofstream(model + "/tokenizer_config.json") << config;
  EXPECT_EQ(prompt("--prompt In", model), "In");
  EXPECT_EQ(prompt("--add-bos --prompt In", model), "<|im_end|>In");
  EXPECT_EQ(tokenized("--add-bos", model), "<|im_end|>In");
  EXPECT_THAT(run_laos("generate --add-bos --prompt In --model-path " + kTiny).output,
              HasSubstr("names no token that begins a text"));
  EXPECT_EQ(run_laos("tokenize --add-bos --no-bos --model-path " + kTiny).exit_code, 2);
}

TEST(GenerateCommand, RefusesContradictionsAndWhatCannotFit) {
  const auto refused = [](const std::string& arguments, int exit_code) {
    const CommandResult result = run_laos("generate --model-path " + kTiny + " " + arguments);
    EXPECT_EQ(result.exit_code, exit_code) << arguments << result.output;
    return result.output;
  };
  EXPECT_THAT(refused("", 2), HasSubstr("--prompt"));
  EXPECT_THAT(refused("--prompt a --prompt-file b", 2), HasSubstr("not both"));
  EXPECT_THAT(refused("--prompt a --top-k 3", 2), HasSubstr("--temperature"));
  EXPECT_THAT(refused("--prompt a --no-thinking", 2), HasSubstr("--chat"));
  EXPECT_THAT(refused("--prompt a --max-new-tokens 0", 2), HasSubstr("max-new-tokens"));
  EXPECT_THAT(refused("--prompt-file /nowhere", 1), HasSubstr("/nowhere"));
}

}  // namespace
}  // namespace laos::cli
