// Tokenizers of every family against the Hugging Face libraries: tests/golden/tokenizers/make.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "hf/text_stream.h"
#include "hf/tokenizer.h"
#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using json = nlohmann::ordered_json;  // the order of tokens counts
using testing::ElementsAre;

const std::filesystem::path kGoldens =
    std::filesystem::path(LAOS_SOURCE_DIR) / "tests/golden/tokenizers";

json read_golden(const std::filesystem::path& file) {
  std::ifstream in(file);
  return json::parse(in);
}

class TokenizerOfFamily : public testing::TestWithParam<std::string> {};

TEST_P(TokenizerOfFamily, GivesTheIdsAndTextsOfTheHuggingFaceLibrary) {
  const auto folder = kGoldens / GetParam();
  const Tokenizer tokenizer = Tokenizer::load(folder);
  std::ifstream in(folder / "golden.jsonl");
  int count = 0;
  for (std::string line; std::getline(in, line); ++count) {
    const json golden = json::parse(line);
    const auto ids = golden["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.decode(ids), golden["decoded"].get<std::string>()) << line;
    TextStream stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    EXPECT_EQ(streamed + stream.finish(), golden["decoded"].get<std::string>()) << line;
    if (!golden.contains("text")) continue;
    const auto text = golden["text"].get<std::string>();
    EXPECT_EQ(tokenizer.encode(text), ids) << line;
    const std::span<const int32_t> before = tokenizer.ids_before();
    const bool begins = !before.empty() && !ids.empty() && ids.front() == before.front();
    if (begins) continue;  // there the library adds a second one
    EXPECT_EQ(tokenizer.add_special(ids), golden["sample"].get<std::vector<int32_t>>()) << line;
  }
  EXPECT_GT(count, 120);
}

std::vector<std::string> families() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kGoldens))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(Golden, TokenizerOfFamily, testing::ValuesIn(families()),
                         [](const testing::TestParamInfo<std::string>& family) {
                           std::string name = family.param;
                           std::erase(name, '-');
                           return name;
                         });

// A directory with the tokenizer of the golden `family` and other files.
class TokenizerWithFiles {
 public:
  explicit TokenizerWithFiles(const std::string& family, const json& files = json::object()) {
    json definition = read_golden(kGoldens / family / "tokenizer.json");
    if (files.contains("tokenizer.json")) definition.update(files["tokenizer.json"]);
    for (const auto& [name, content] : files.items()) directory_.write(name, content.dump());
    directory_.write("tokenizer.json", definition.dump());
  }
  Tokenizer load(Bos bos = Bos::kAsModel) const { return Tokenizer::load(directory_.path(), bos); }

 private:
  test::TempDirectory directory_;
};

TEST(TokenizerConfig, AddsTokensAsTransformersDoes) {
  const json cases = read_golden(kGoldens / "configs.json");
  EXPECT_GE(cases.size(), 10U);
  for (const json& golden : cases) {
    const Tokenizer tokenizer = TokenizerWithFiles("qwen2", golden["files"]).load();
    EXPECT_EQ(tokenizer.vocab_size(), golden["size"].get<int64_t>()) << golden["name"];
    for (const json& text : golden["texts"])
      EXPECT_EQ(tokenizer.encode(text[0].get<std::string>()), text[1].get<std::vector<int32_t>>())
          << golden["name"] << ": " << text[0];
  }
}

json config(const json& content) { return {{"tokenizer_config.json", content}}; }

TEST(TokenizerConfig, DecidesAboutTheFirstTokenWhereItSpeaksOfIt) {
  const auto before = [](const std::string& family, const json& content, Bos bos) {
    const Tokenizer tokenizer = TokenizerWithFiles(family, config(content)).load(bos);
    const auto ids = tokenizer.ids_before();
    return std::vector<int32_t>(ids.begin(), ids.end());
  };
  const json bos = {{"bos_token", "<s>"}};
  EXPECT_THAT(before("mistral", bos, Bos::kAsModel), ElementsAre(1));
  EXPECT_THAT(before("mistral", bos, Bos::kOmit), ElementsAre());
  EXPECT_THAT(before("mistral", {{"add_bos_token", false}}, Bos::kAsModel), ElementsAre());
  EXPECT_THAT(before("yi", {{"bos_token", "<|startoftext|>"}}, Bos::kAsModel), ElementsAre());
  const json deepseek = {{"add_bos_token", true},
                         {"bos_token",
                          {{"__type", "AddedToken"},
                           {"content", "<｜begin▁of▁sentence｜>"},
                           {"normalized", false},
                           {"special", true}}}};
  EXPECT_THAT(before("deepseek", deepseek, Bos::kAsModel), ElementsAre(520));
  EXPECT_THAT(before("deepseek", deepseek, Bos::kOmit), ElementsAre());
  EXPECT_THAT(before("qwen2", {{"add_bos_token", false}, {"bos_token", nullptr}}, Bos::kAsModel),
              ElementsAre());
  EXPECT_THAT(before("qwen2", {{"bos_token", "<|endoftext|>"}}, Bos::kAdd), ElementsAre(520));
  const Tokenizer eos =
      TokenizerWithFiles("mistral", config({{"add_eos_token", true}, {"eos_token", "</s>"}}))
          .load();
  EXPECT_THAT(eos.ids_after(), ElementsAre(2));
}

TEST(TokenizerConfig, RefusesToAddAFirstTokenThatItDoesNotName) {
  const Error error = test::error_of([] { TokenizerWithFiles("qwen2").load(Bos::kAdd); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(error.what(), testing::HasSubstr("bos_token"));
}

TEST(TokenizerConfig, AddsNoSecondFirstToken) {
  const Tokenizer tokenizer = TokenizerWithFiles("mistral").load();
  EXPECT_THAT(tokenizer.add_special({7, 1}), ElementsAre(1, 7, 1));
  EXPECT_THAT(tokenizer.add_special({1, 7}), ElementsAre(1, 7));
  EXPECT_THAT(tokenizer.add_special({}), ElementsAre(1));
}

TEST(TokenizerConfig, IsRefusedWhereItIsMalformed) {
  for (const auto& [content, message] : std::vector<std::pair<json, std::string>>{
           {json::array(), "not a JSON object"},
           {{{"added_tokens_decoder", json::array()}}, "added_tokens_decoder"},
           {{{"added_tokens_decoder", {{"x", {{"content", "<x>"}}}}}}, "no id"},
           {{{"added_tokens_decoder", {{"7", {{"content", 5}}}}}}, "added_tokens_decoder.7"},
           {{{"bos_token", 5}}, "bos_token"},
           {{{"pad_token", {{"lstrip", true}}}}, "pad_token"},
           {{{"extra_special_tokens", 5}}, "extra_special_tokens"},
           {{{"additional_special_tokens", {5}}}, "additional_special_tokens"}}) {
    const Error error =
        test::error_of([&] { TokenizerWithFiles("qwen2", config(content)).load(); });
    EXPECT_EQ(error.code(), ErrorCode::kFormat) << content;
    EXPECT_THAT(error.what(), testing::HasSubstr(message)) << content;
    EXPECT_THAT(error.what(), testing::HasSubstr("tokenizer_config.json")) << content;
  }
}

}  // namespace
}  // namespace laos::hf
