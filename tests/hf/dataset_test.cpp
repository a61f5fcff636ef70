#include "hf/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <tuple>

#include "core/threads.h"
#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

class LoadDataset : public testing::Test {
 protected:
  // Token b is byte b, so that samples read as text.
  LoadDataset() {
    directory_.write("tokenizer.json",
                     test::small_tokenizer_with({test::added_token("<|im_start|>", 256),
                                                 test::added_token("<|im_end|>", 257)})
                         .dump());
  }
  const test::TempDirectory directory_;

  Dataset load(const std::string& name, std::string_view content,
               const DatasetOptions& options = {}) const {
    return load_dataset(directory_.write(name, content), directory_.path(), options);
  }
  std::vector<std::string> samples(const std::string& name, std::string_view content,
                                   const DatasetOptions& options = {}) const {
    const Tokenizer tokenizer = Tokenizer::load(directory_.path());
    std::vector<std::string> texts;
    for (const auto& ids : load(name, content, options).samples)
      texts.push_back(tokenizer.decode(ids));
    return texts;
  }
  Error error(const std::string& name, std::string_view content) const {
    return test::error_of([&] { load(name, content, {.seq_len = 100}); });
  }
};

TEST_F(LoadDataset, TakesTextsAndIdsInFileOrder) {
  const Dataset dataset = load("a.jsonl", "{\"text\": \"ab\"}\n\n{\"ids\": [1, 2, 3]}\n\"c\"");
  EXPECT_THAT(dataset.samples,
              ElementsAre(ElementsAre('a', 'b'), ElementsAre(1, 2, 3), ElementsAre('c')));
  EXPECT_FALSE(dataset.is_running_text);
  EXPECT_THAT(dataset.warnings, SizeIs(0));
}

TEST_F(LoadDataset, ReadsEveryLineOfTheSetThatComesWithLaos) {
  const std::filesystem::path directory = std::filesystem::path(LAOS_SOURCE_DIR) / "calib";
  const std::filesystem::path path = default_dataset({directory_.path(), directory});
  std::ifstream file(path);
  size_t lines = 0, conversations = 0;
  for (std::string line; std::getline(file, line); ++lines)
    if (line.find("{\"messages\"") == 0) ++conversations;
  ASSERT_GT(lines, 100U);
  ASSERT_GT(conversations, 10U);
  const Dataset all = load_dataset(path, directory_.path(), {.chat_format = "chatml"});
  EXPECT_THAT(all.samples, SizeIs(lines));
  EXPECT_THAT(all.warnings, SizeIs(0));

  const Dataset texts = load_dataset(path, directory_.path(), {.own_chat_format_only = true});
  EXPECT_THAT(texts.samples, SizeIs(lines - conversations));
  EXPECT_THAT(texts.warnings,
              ElementsAre(HasSubstr(std::to_string(conversations) + " conversations left out")));
}

TEST_F(LoadDataset, WritesConversationsInTheChatFormat) {
  EXPECT_THAT(samples("a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n"),
              ElementsAre("<|im_start|>user\na<|im_end|>\n"));
}

TEST_F(LoadDataset, WritesConversationsAsTheModelDoesOrSaysWhatItAssumes) {
  const std::string line = R"({"messages": [{"role": "user", "content": "a"}]})";
  EXPECT_THAT(load("a.jsonl", line).warnings, ElementsAre(HasSubstr("no chat template")));
  EXPECT_THAT(load("a.jsonl", line, {.chat_format = "chatml"}).warnings, SizeIs(0));
  directory_.write("chat_template.jinja", "{{ '<|turn|>' }}");
  EXPECT_THAT(load("a.jsonl", line).warnings, ElementsAre(HasSubstr("`<|turn|>`")));
  directory_.write("chat_template.jinja",
                   "{{ '<|im_start|>system\nS<|im_end|>\n<|im_start|>' + role }}");
  EXPECT_THAT(samples("a.jsonl", line),
              ElementsAre("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n"));
  EXPECT_THAT(load("a.jsonl", line).warnings, SizeIs(0));
}

TEST_F(LoadDataset, LeavesOutConversationsThatTheFormatCannotHoldAndSaysSo) {
  directory_.write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  const std::string bad = R"({"conversations": [{"from": "gpt", "value": "a"}]})",
                    good = R"({"conversations": [{"from": "human", "value": "b"}]})";
  const Dataset dataset = load("a.jsonl", bad + "\n" + good, {.chat_format = "mistral"});
  EXPECT_THAT(dataset.samples, SizeIs(1));
  EXPECT_THAT(dataset.warnings,
              ElementsAre(testing::AllOf(HasSubstr("1 conversation left out"),
                                         HasSubstr("take turns"), HasSubstr("a.jsonl:1"))));
  EXPECT_THAT(test::error_of([&] { load("a.jsonl", bad, {.chat_format = "mistral"}); }).what(),
              HasSubstr("take turns"));
}

TEST_F(LoadDataset, LeavesOutConversationsOfMoreThanTextAndSaysSo) {
  const std::string bad = R"({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]})",
                    good = R"({"messages": [{"role": "user", "content": "b"}]})";
  const Dataset dataset = load("a.jsonl", bad + "\n" + good, {.chat_format = "chatml"});
  EXPECT_THAT(dataset.samples, SizeIs(1));
  EXPECT_THAT(dataset.warnings,
              ElementsAre(testing::AllOf(HasSubstr("1 conversation left out"),
                                         HasSubstr("`tool_calls`"), HasSubstr("a.jsonl:1"))));
  EXPECT_THAT(test::error_of([&] { load("a.jsonl", bad, {.chat_format = "chatml"}); }).what(),
              HasSubstr("use conversations of text"));
}

TEST_F(LoadDataset, CutsTextAndDropsALastTokenAlone) {
  EXPECT_THAT(samples("a.txt", "abcdefgh", {.seq_len = 3}), ElementsAre("abc", "def", "gh"));
  EXPECT_THAT(samples("a.txt", "abcdefg", {.seq_len = 3}), ElementsAre("abc", "def"));
  EXPECT_THAT(samples("a.txt", "abcdef", {.seq_len = 3}), ElementsAre("abc", "def"));
  EXPECT_THAT(load("a.txt", "abcdef", {.seq_len = 3}).warnings, SizeIs(0));
  EXPECT_TRUE(load("a.txt", "abcdef").is_running_text);
}

TEST_F(LoadDataset, CutsLongSamplesOfEveryKindAndSaysSo) {
  const std::string lines = "{\"text\": \"abcd\"}\n{\"ids\": [1, 2, 3, 4]}\n{\"text\": \"abc\"}\n";
  const Dataset dataset = load("a.jsonl", lines, {.seq_len = 3});
  EXPECT_THAT(dataset.samples,
              ElementsAre(ElementsAre('a', 'b', 'c'), ElementsAre(1, 2, 3), SizeIs(3)));
  EXPECT_THAT(dataset.warnings, ElementsAre(HasSubstr("2 samples of more than 3 tokens")));
}

TEST_F(LoadDataset, DrawsTheSameSamplesFromTheSameSeedInFileOrder) {
  std::string lines, text;
  for (char c = 'a'; c <= 'z'; ++c) {
    lines += std::string("\"") + c + "\"\n";
    text += std::string(2, c);
  }
  for (const auto& [name, content, seq_len] :
       {std::tuple("a.jsonl", lines, 0), std::tuple("a.txt", text, 2)}) {
    const DatasetOptions options{.seq_len = seq_len, .max_samples = 5, .seed = 1};
    const std::vector<std::string> drawn = samples(name, content, options);
    EXPECT_THAT(drawn, SizeIs(5));
    EXPECT_TRUE(std::is_sorted(drawn.begin(), drawn.end()));
    EXPECT_EQ(samples(name, content, options), drawn);
    EXPECT_NE(samples(name, content, {.seq_len = seq_len, .max_samples = 5, .seed = 2}), drawn);
    EXPECT_THAT(samples(name, content, {.seq_len = seq_len, .max_samples = 26}), SizeIs(26));
  }
}

TEST_F(LoadDataset, LeavesEmptyTextsOutAndSaysSo) {
  const Dataset dataset = load("a.jsonl", "{\"text\": \"\"}\n{\"text\": \"a\"}\n{\"ids\": []}\n");
  EXPECT_THAT(dataset.samples, SizeIs(1));
  EXPECT_THAT(dataset.warnings, ElementsAre(HasSubstr("2 empty texts")));
}

TEST_F(LoadDataset, PutsSpecialTokensAroundTextsAndNothingElse) {
  directory_.write("tokenizer_config.json",
                   R"({"add_bos_token": true, "bos_token": "<|im_start|>",
                       "add_eos_token": true, "eos_token": "<|im_end|>"})");
  EXPECT_THAT(
      load("a.jsonl", "{\"text\": \"a\"}\n{\"ids\": [1, 2]}\n\"<|im_start|>b\"\n\"\"\n").samples,
      ElementsAre(ElementsAre(256, 'a', 257), ElementsAre(1, 2), ElementsAre(256, 'b', 257)));
  EXPECT_THAT(load("a.json", R"([{"messages": [{"role": "user", "content": "a"}]}])")
                  .samples.front()
                  .back(),
              '\n');
  EXPECT_THAT(load("a.txt", "ab").samples, ElementsAre(ElementsAre(256, 'a', 'b', 257)));
  EXPECT_THAT(load("a.txt", "abcd", {.seq_len = 3}).samples,
              ElementsAre(ElementsAre(256, 'a', 'b'), ElementsAre(256, 'c', 'd')));
  EXPECT_THAT(load("a.jsonl", "\"a\"\n", {.bos = Bos::kOmit}).samples,
              ElementsAre(ElementsAre('a', 257)));
}

TEST_F(LoadDataset, RefusesAFileWithoutSamples) {
  for (const char* name : {"a.jsonl", "a.txt", "a.csv"})
    EXPECT_THAT(error(name, "").what(), HasSubstr("no samples"));
  EXPECT_THAT(error("a.json", "[]").what(), HasSubstr("no samples"));
  EXPECT_THAT(error("a.txt", "x").what(), HasSubstr("no samples"));
  EXPECT_THAT(error("a.jsonl", "{\"text\": \"\"}").what(), HasSubstr("no samples"));
  EXPECT_EQ(test::error_of([&] { load_dataset("none.jsonl", directory_.path()); }).code(),
            ErrorCode::kIo);
}

TEST_F(LoadDataset, NeedsNoTokenizerForIds) {
  std::filesystem::remove(directory_.path() / "tokenizer.json");
  EXPECT_THAT(load("a.json", "[1, 2]").samples, SizeIs(1));
}

TEST_F(LoadDataset, GivesTheSameSamplesOnAnyNumberOfThreads) {
  std::string lines;
  for (int i = 0; i < 50; ++i) lines += "{\"text\": \"text " + std::to_string(i) + "\"}\n";
  const int before = num_threads();
  set_num_threads(1);
  const auto one = samples("a.jsonl", lines);
  set_num_threads(4);
  EXPECT_EQ(samples("a.jsonl", lines), one);
  set_num_threads(before);
}

TEST(FindDataset, LooksBesideTheRecipeBeforeTheCalibDirectories) {
  const test::TempDirectory recipe;
  const test::TempDirectory calib;
  const auto in_calib = calib.write("a.jsonl", "");
  EXPECT_EQ(find_dataset("a.jsonl", recipe.path(), {"/nonexistent", calib.path()}), in_calib);
  const auto beside = recipe.write("a.jsonl", "");
  EXPECT_EQ(find_dataset("a.jsonl", recipe.path(), {calib.path()}), beside);
  EXPECT_EQ(find_dataset("a.jsonl", {}, {calib.path()}), in_calib);
  EXPECT_EQ(find_dataset(in_calib.string(), recipe.path(), {}), in_calib);
}

TEST(FindDataset, KnowsStandardInputAndKeys) {
  const test::TempDirectory calib;
  const auto file = calib.write("a.csv", "");
  EXPECT_EQ(find_dataset("-", "/recipes", {calib.path()}), "-");
  EXPECT_EQ(find_dataset("a.csv:body", {}, {calib.path()}), file.string() + ":body");
}

TEST(FindDataset, SaysThatADirectoryIsOne) {
  const test::TempDirectory directory;
  EXPECT_THAT(test::error_of([&] { find_dataset(directory.path().string(), {}, {}); }).what(),
              HasSubstr("is a directory, and one file is read"));
}

TEST(FindDataset, ListsEveryPlaceTried) {
  const Error e = test::error_of([] { find_dataset("none.jsonl", "/recipes", {"/one", "/two"}); });
  EXPECT_EQ(e.code(), ErrorCode::kData);
  for (const char* place :
       {"none.jsonl", "/recipes/none.jsonl", "/one/none.jsonl", "/two/none.jsonl"})
    EXPECT_THAT(e.what(), HasSubstr(place));
  EXPECT_EQ(test::error_of([] { find_dataset("/none.jsonl", "/recipes", {"/one"}); })
                .problems()
                .front()
                .where,
            "tried /none.jsonl");
}

}  // namespace
}  // namespace laos::hf
