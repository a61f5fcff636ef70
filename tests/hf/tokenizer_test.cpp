#include "hf/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using nlohmann::json;
using test::added_token;
using test::error_of;
using test::load;
using test::small_tokenizer;
using testing::ElementsAre;
using testing::HasSubstr;

const std::filesystem::path kRoot = LAOS_SOURCE_DIR;

std::vector<int32_t> bytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

// Every line of `file` has text, ids and decoded as the Hugging Face tokenizers library gives them.
void expect_matches_golden(const Tokenizer& tokenizer, const std::filesystem::path& file,
                           int lines) {
  std::ifstream in(file);
  int count = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) continue;
    ++count;
    const json golden = json::parse(line);
    const std::string text = golden["text"];
    const std::vector<int32_t> ids = tokenizer.encode(text);
    EXPECT_EQ(ids, golden["ids"].get<std::vector<int32_t>>()) << golden["text"];
    EXPECT_EQ(tokenizer.decode(ids), golden["decoded"].get<std::string>()) << golden["text"];
  }
  EXPECT_EQ(count, lines) << file;
}

TEST(Tokenizer, MatchesGoldenOfTheTinyModel) {
  const Tokenizer tokenizer = Tokenizer::load(kRoot / "models/qwen3-tiny");
  EXPECT_EQ(tokenizer.vocab_size(), 4096);
  expect_matches_golden(tokenizer, kRoot / "tests/golden/qwen3-tiny/tokenizer.jsonl", 100);
}

TEST(Tokenizer, MatchesGoldenOfQwen3) {
  const auto data = kRoot / "../shared/data";
  if (!std::filesystem::exists(data / "qwen3-tokenizer/tokenizer.json"))
    GTEST_SKIP() << "the tokenizer of Qwen3 is not at " << data;
  const Tokenizer tokenizer = Tokenizer::load(data / "qwen3-tokenizer");
  EXPECT_EQ(tokenizer.vocab_size(), 151669);
  expect_matches_golden(tokenizer, data / "tokenizer-golden/qwen3.jsonl", 294);
}

TEST(Tokenizer, EncodesOnSeveralThreadsAtOnce) {
  const Tokenizer tokenizer = Tokenizer::load(kRoot / "models/qwen3-tiny");
  const std::string text =
      "And God saw the light, that it was good: don't <|im_end|> e\u0301 \u4F60\n";
  const std::vector<int32_t> expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) wrong[t] += tokenizer.encode(text) == expected ? 0 : 1;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

TEST(Tokenizer, WritesEveryByteAsItsToken) {
  const Tokenizer tokenizer = load(small_tokenizer());
  std::string text;
  for (char32_t c = 0; c < 0x80; ++c) text += static_cast<char>(c);
  text += "\u00A1\u00AD\u00FF\u4F60\U0001F642";
  EXPECT_EQ(tokenizer.encode(text), bytes(text));
  EXPECT_EQ(tokenizer.decode(bytes(text)), text);
}

TEST(Tokenizer, MergesWithinPiecesOnly) {
  const Tokenizer tokenizer = load(small_tokenizer({{"a", "b"}, {" ", "ab"}, {"b", " "}}));
  EXPECT_THAT(tokenizer.encode("ab ab"), ElementsAre(256, 257));
  EXPECT_EQ(tokenizer.vocab_size(), 259);
}

TEST(Tokenizer, ReadsMergesWrittenAsOneString) {
  json file = small_tokenizer({{"a", "b"}});
  file["model"]["merges"] = {"a b"};
  EXPECT_THAT(load(file).encode("ab"), ElementsAre(256));
}

TEST(Tokenizer, TakesWholePiecesFirstWithIgnoreMerges) {
  json file = small_tokenizer({{"a", "b"}, {"c", "d"}});
  file["model"]["vocab"]["abc"] = 300;
  file["model"]["vocab"]["\u4F60"] = 301;  // not in the byte alphabet: no text becomes it
  EXPECT_THAT(load(file).encode("abc"), ElementsAre(256, 'c'));
  file["model"]["ignore_merges"] = true;
  EXPECT_THAT(load(file).encode("abc"), ElementsAre(300));
  EXPECT_THAT(load(file).encode("abcd"), ElementsAre(256, 257));
  EXPECT_EQ(load(file).encode("\u4F60"), bytes("\u4F60"));
  EXPECT_EQ(load(file).decode(std::vector<int32_t>{301}), "\u4F60");
}

// "abc" is in the vocabulary, and yet the merges of its bytes stop before it.
TEST(Tokenizer, FollowsTheMergesEvenWhereAPieceIsAToken) {
  const Tokenizer tokenizer = load(small_tokenizer({{"b", "c"}, {"a", "b"}, {"ab", "c"}}));
  EXPECT_THAT(tokenizer.encode("abc ab"), ElementsAre('a', 256, ' ', 257));
}

TEST(Tokenizer, FindsAddedTokensBeforeItNormalizes) {
  json file = small_tokenizer();
  file["added_tokens"] = {added_token("<a>", 256), added_token("<a><b>", 257),
                          added_token("e\u0301", 258)};
  const Tokenizer tokenizer = load(file);
  EXPECT_THAT(tokenizer.encode("x<a><b><a>y"), ElementsAre('x', 257, 256, 'y'));
  EXPECT_THAT(tokenizer.encode("e\u0301"), ElementsAre(258));
  EXPECT_EQ(tokenizer.encode("\u00E9"), bytes("\u00E9"));
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{257, 'z'}), "<a><b>z");
}

// The Hugging Face library gives them the next free ids, whatever the file says.
TEST(Tokenizer, GivesAddedTokensTheIdsThatTheReferenceGives) {
  json file = small_tokenizer();
  file["added_tokens"] = {added_token("<a>", 400), added_token("a", 401), added_token("<b>", 300)};
  const Tokenizer tokenizer = load(file);
  EXPECT_THAT(tokenizer.encode("<b>a<a>"), ElementsAre(257, 'a', 256));
  EXPECT_EQ(tokenizer.vocab_size(), 258);
}

TEST(Tokenizer, RefusesANormalizerThatMakesTextLongerWithoutEnd) {
  json file = small_tokenizer();
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
  for (int i = 0; i < 40; ++i)
    file["normalizer"]["normalizers"].push_back(
        {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  const Tokenizer tokenizer = load(file);
  EXPECT_THAT(tokenizer.encode("b"), ElementsAre('b'));
  EXPECT_EQ(error_of([&] { tokenizer.encode("a"); }).code(), ErrorCode::kUnsupported);
}

TEST(Tokenizer, FindsNormalizedAddedTokensAfterwards) {
  json file = small_tokenizer();
  file["added_tokens"] = json::array({added_token("e\u0301", 256)});
  file["added_tokens"][0]["normalized"] = true;
  EXPECT_THAT(load(file).encode("xe\u0301\u00E9"), ElementsAre('x', 256, 256));
}

TEST(Tokenizer, StripsWhiteSpaceWhereAnAddedTokenSaysSo) {
  json file = small_tokenizer();
  file["added_tokens"] = json::array({added_token("<a>", 256)});
  file["added_tokens"][0]["lstrip"] = true;
  file["added_tokens"][0]["rstrip"] = true;
  EXPECT_THAT(load(file).encode("x \n<a>  y"), ElementsAre('x', 256, 'y'));
}

TEST(Tokenizer, NormalizesOnlyWhenTheFileSaysSo) {
  json file = small_tokenizer();
  EXPECT_EQ(load(file).encode("e\u0301"), bytes("\u00E9"));
  file["normalizer"] = nullptr;
  EXPECT_EQ(load(file).encode("e\u0301"), bytes("e\u0301"));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Error error = error_of([] { load(small_tokenizer()).encode("abc\xC3("); });
  EXPECT_EQ(error.code(), ErrorCode::kData);
  EXPECT_THAT(error.problems().front().where, HasSubstr("byte 3"));
}

TEST(Tokenizer, DecodesBytesThatAreNoTextAsReplacementCharacters) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{'a', 0xE4, 0xBD, 'b', 0xA0}), "a\uFFFDb\uFFFD");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{0xE4, 0xBD, 0xA0}), "\u4F60");
}

TEST(Tokenizer, RefusesToDecodeWhatIsNoToken) {
  json file = small_tokenizer();
  file["model"]["vocab"]["\u4F60"] = 300;
  const Tokenizer tokenizer = load(file);
  EXPECT_EQ(tokenizer.vocab_size(), 301);
  for (const int32_t id : {-1, 256, 299, 301, 1 << 30}) {
    const Error error = error_of([&] { tokenizer.decode(std::vector<int32_t>{'a', id}); });
    EXPECT_EQ(error.code(), ErrorCode::kData);
    EXPECT_THAT(error.what(), HasSubstr(std::to_string(id)));
  }
}

struct Change {
  const char* name;
  std::function<void(json&)> apply;
  const char* message;
};

void expect_refused(const std::vector<Change>& changes, ErrorCode code) {
  for (const Change& change : changes) {
    json file = small_tokenizer({{"a", "b"}});
    file["added_tokens"] = json::array({added_token("<a>", 300)});
    change.apply(file);
    const Error error = error_of([&] { load(file); });
    EXPECT_EQ(error.code(), code) << change.name << ": " << error.what();
    EXPECT_THAT(error.what(), HasSubstr(change.message)) << change.name;
    EXPECT_THAT(error.what(), HasSubstr("tokenizer.json")) << change.name;
  }
}

TEST(Tokenizer, NamesTheComponentItDoesNotSupport) {
  const auto split = [](json& f) -> json& { return f["pre_tokenizer"]["pretokenizers"][0]; };
  expect_refused(
      {{"NFKC", [](json& f) { f["normalizer"]["type"] = "NFKC"; }, "normalizer \"NFKC\""},
       {"typeless", [](json& f) { f["normalizer"] = json::object(); }, "normalizer"},
       {"no pre-tokenizer", [](json& f) { f.erase("pre_tokenizer"); }, "pre-tokenizer"},
       {"Whitespace",
        [](json& f) {
          f["pre_tokenizer"] = {{"type", "Whitespace"}};
        },
        "pre-tokenizer"},
       {"order",
        [](json& f) {
          std::swap(f["pre_tokenizer"]["pretokenizers"][0], f["pre_tokenizer"]["pretokenizers"][1]);
        },
        "pre-tokenizer"},
       {"no pattern",
        [&](json& f) {
          split(f)["pattern"] = {{"String", ""}};
        },
        "pretokenizers[0].pattern"},
       {"behavior", [&](json& f) { split(f)["behavior"] = "Removed"; }, "behavior"},
       {"regex", [&](json& f) { split(f)["pattern"]["Regex"] = "(?m:a)"; }, "split pattern"},
       {"post-processor",
        [](json& f) {
          f["post_processor"] = {{"type", "RobertaProcessing"}};
        },
        "RobertaProcessing"},
       {"two texts",
        [](json& f) {
          f["post_processor"] = {
              {"type", "TemplateProcessing"},
              {"single", {{{"Sequence", {{"id", "A"}}}}, {{"Sequence", {{"id", "A"}}}}}}};
        },
        "one place"},
       {"lower case",
        [](json& f) {
          f["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "Lowercase"}}}}};
        },
        "normalizer.normalizers[0]"},
       {"regex in a Replace",
        [](json& f) {
          f["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", " +"}}}, {"content", " "}};
        },
        "normalizer.pattern"},
       {"long replacement",
        [](json& f) {
          f["normalizer"] = {{"type", "Prepend"}, {"prepend", std::string(17, ' ')}};
        },
        "16 bytes"},
       {"too many steps",
        [](json& f) {
          f["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
          for (int i = 0; i < 65; ++i) f["normalizer"]["normalizers"].push_back({{"type", "NFC"}});
        },
        "64 steps"},
       {"two decoders",
        [](json& f) {
          f["decoder"] = {{"type", "Sequence"},
                          {"decoders", {{{"type", "Fuse"}}, {{"type", "ByteFallback"}}}}};
        },
        "decoder.decoders[1]"},
       {"strips the end",
        [](json& f) {
          f["decoder"] = {{"type", "Sequence"},
                          {"decoders",
                           {{{"type", "Fuse"}},
                            {{"type", "Strip"}, {"content", " "}, {"start", 0}, {"stop", 1}}}}};
        },
        "Strip"},
       {"decoder", [](json& f) { f["decoder"] = nullptr; }, "decoder"},
       {"WordPiece", [](json& f) { f["model"]["type"] = "WordPiece"; }, "WordPiece"},
       {"dropout", [](json& f) { f["model"]["dropout"] = 0.1; }, "dropout"},
       {"suffix", [](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix"},
       {"byte fallback", [](json& f) { f["model"]["byte_fallback"] = true; }, "byte_fallback"},
       {"single_word", [](json& f) { f["added_tokens"][0]["single_word"] = true; }, "single_word"},
       {"strips itself",
        [](json& f) {
          f["added_tokens"][0]["content"] = "a ";
          f["added_tokens"][0]["rstrip"] = true;
        },
        "white space"},
       {"long", [](json& f) { f["added_tokens"][0]["content"] = std::string(2000, 'a'); },
        "2000 bytes"}},
      ErrorCode::kUnsupported);
}

TEST(Tokenizer, RefusesAMalformedFile) {
  expect_refused(
      {{"no model", [](json& f) { f.erase("model"); }, "`model`"},
       {"list model", [](json& f) { f["model"] = json::array(); }, "`model`"},
       {"no vocab", [](json& f) { f["model"].erase("vocab"); }, "vocabulary"},
       {"empty vocab", [](json& f) { f["model"]["vocab"] = json::object(); }, "vocabulary"},
       {"list vocab",
        [](json& f) {
          f["model"]["vocab"] = {"a", "b"};
        },
        "vocabulary"},
       {"string id", [](json& f) { f["model"]["vocab"]["a"] = "97"; }, "\"a\" is not an integer"},
       {"negative id", [](json& f) { f["model"]["vocab"]["a"] = -1; }, "\"a\" is not an integer"},
       {"fractional id", [](json& f) { f["model"]["vocab"]["a"] = 1.5; },
        "\"a\" is not an integer"},
       {"huge id", [](json& f) { f["model"]["vocab"]["a"] = 1 << 24; }, "\"a\" is not an integer"},
       {"id of 64 bits", [](json& f) { f["model"]["vocab"]["a"] = UINT64_MAX; },
        "\"a\" is not an integer"},
       {"same id", [](json& f) { f["model"]["vocab"]["a"] = 98; }, "two tokens have id 98"},
       {"no merges", [](json& f) { f["model"].erase("merges"); }, "merges"},
       {"object merges", [](json& f) { f["model"]["merges"] = json::object(); }, "merges"},
       {"unknown left",
        [](json& f) {
          f["model"]["merges"].push_back({"xx", "a"});
        },
        "merges[1]"},
       {"unknown result",
        [](json& f) {
          f["model"]["merges"].push_back({"b", "a"});
        },
        "\"ba\""},
       {"three",
        [](json& f) {
          f["model"]["merges"].push_back({"a", "b", "c"});
        },
        "merges[1]"},
       {"numbers",
        [](json& f) {
          f["model"]["merges"].push_back({1, 2});
        },
        "merges[1]"},
       {"one word", [](json& f) { f["model"]["merges"].push_back("ab"); }, "merges[1]"},
       {"three words", [](json& f) { f["model"]["merges"].push_back("a b c"); }, "merges[1]"},
       {"added object", [](json& f) { f["added_tokens"] = json::object(); }, "added tokens"},
       {"added number", [](json& f) { f["added_tokens"].push_back(5); }, "added_tokens[1]"},
       {"no content", [](json& f) { f["added_tokens"][0].erase("content"); }, "content"},
       {"empty content", [](json& f) { f["added_tokens"][0]["content"] = ""; }, "content"},
       {"no id", [](json& f) { f["added_tokens"][0].erase("id"); }, "\"<a>\""},
       {"ids with gaps", [](json& f) { f["model"]["vocab"]["zz"] = 258; }, "gaps"},
       {"no special token",
        [](json& f) {
          f["post_processor"] = {
              {"type", "TemplateProcessing"},
              {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}}};
        },
        "post_processor.single[0]"},
       {"id of no token",
        [](json& f) {
          f["post_processor"] = {
              {"type", "TemplateProcessing"},
              {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
              {"special_tokens", {{"<s>", {{"ids", {1000}}}}}}};
        },
        "is that of no token"},
       {"Metaspace",
        [](json& f) {
          f["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "ab"}};
        },
        "pre_tokenizer.replacement"},
       {"unk_token",
        [](json& f) {
          f["pre_tokenizer"] = nullptr;
          f["model"]["unk_token"] = "<unk>";
        },
        "model.unk_token"},
       {"Digits",
        [](json& f) {
          f["pre_tokenizer"] = {{"type", "Digits"}};
        },
        "individual_digits"},
       {"odd flag", [](json& f) { f["added_tokens"][0]["lstrip"] = 1; }, "lstrip"},
       {"list", [](json& f) { f = json::array(); }, "object"}},
      ErrorCode::kFormat);
}

TEST(Tokenizer, RefusesAFileThatIsNotJson) {
  const std::string deep(1'000'000, '[');
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("{\"a\": \"\xFF\"}"), std::string("{1: 2}"),
        deep, "{\"a\":" + deep + std::string(deep.size(), ']') + "}"})
    EXPECT_EQ(error_of([&] { test::load_text(text); }).code(), ErrorCode::kFormat)
        << text.substr(0, 20);
  EXPECT_EQ(error_of([] { Tokenizer::load("/nonexistent"); }).code(), ErrorCode::kIo);
}

TEST(Tokenizer, ReportsEverythingThatIsWrongButNotWithoutEnd) {
  json file = small_tokenizer();
  file["normalizer"]["type"] = "NFKD";
  file["decoder"]["type"] = "WordPiece";
  EXPECT_EQ(error_of([&] { load(file); }).problems().size(), 2U);
  file = small_tokenizer();
  for (auto& [token, id] : file["model"]["vocab"].items()) id = "x";
  const Error error = error_of([&] { load(file); });
  EXPECT_EQ(error.problems().size(), 11U);
  EXPECT_THAT(error.what(), HasSubstr("246 more"));
}

// The Hugging Face library does so; SmolLM2's has no token for the bytes of some rare characters.
TEST(Tokenizer, LeavesOutBytesWithoutAToken) {
  json file = small_tokenizer();
  file["model"]["vocab"].erase("z");
  file["model"]["vocab"]["yz"] = 300;  // cannot be reached, and does no harm
  EXPECT_THAT(load(file).encode("azb z"), ElementsAre('a', 'b', ' '));
  file["model"]["unk_token"] = "x";
  EXPECT_THAT(load(file).encode("zz"), ElementsAre('x', 'x'));
}

}  // namespace
}  // namespace laos::hf
