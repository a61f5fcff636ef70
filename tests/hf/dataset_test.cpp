#include "hf/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/threads.h"
#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::SizeIs;

class Dataset : public testing::Test {
 protected:
  // Token b is byte b, so that samples read as text.
  const Tokenizer tokenizer_ = test::load(test::small_tokenizer());
  const test::TempDirectory directory_;

  std::vector<std::string> samples(const std::string& name, std::string_view content,
                                   int64_t seq_len = 100) const {
    std::vector<std::string> texts;
    for (const auto& ids : load_samples(directory_.write(name, content), tokenizer_, seq_len))
      texts.push_back(tokenizer_.decode(ids));
    return texts;
  }
  Error error(const std::string& name, std::string_view content) const {
    return test::error_of([&] { samples(name, content); });
  }
};

TEST_F(Dataset, ReadsJsonLinesInFileOrder) {
  EXPECT_THAT(samples("a.jsonl",
                      "{\"inputs_pretokenized\": \"one\", \"id\": 7}\n\n  \r\n"
                      "{\"id\": [1], \"inputs_pretokenized\": \"two\\n\"}"),
              ElementsAre("one", "two\n"));
}

TEST_F(Dataset, TakesTheLineItselfWhenTheFieldIsMissing) {
  EXPECT_THAT(samples("a.jsonl", "{\"prompt\": \"x\"}\r\n{\"inputs_pretokenized\": \"b\"}\n {}\n"),
              ElementsAre("{\"prompt\": \"x\"}", "b", " {}"));
}

TEST_F(Dataset, NamesEveryLineThatIsWrong) {
  const Error e = error("a.jsonl",
                        "{\"inputs_pretokenized\": \"\"}\n[1]\n{\"inputs_pretokenized\": \"a\"}\n\n"
                        "{\"inputs_pretokenized\": 5}\n{\"inputs\n");
  EXPECT_EQ(e.code(), ErrorCode::kData);
  std::vector<std::string> places;
  for (const Problem& problem : e.problems()) places.push_back(problem.where);
  EXPECT_THAT(places, testing::UnorderedElementsAre(EndsWith("a.jsonl:1"), EndsWith("a.jsonl:2"),
                                                    EndsWith("a.jsonl:5"), EndsWith("a.jsonl:6")));
}

TEST_F(Dataset, SpellsOutOnlyTheFirstOfVeryManyProblems) {
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += "1\n";
  EXPECT_THAT(error("a.jsonl", lines).problems(), SizeIs(21));
  EXPECT_THAT(error("a.jsonl", lines).what(), HasSubstr("980 more"));
}

TEST_F(Dataset, ReadsAListOfStrings) {
  EXPECT_THAT(samples("a.json", R"(["one", "two"])"), ElementsAre("one", "two"));
  EXPECT_THAT(error("a.json", R"(["one", ["two"]])").what(), HasSubstr("item 1"));
  EXPECT_THAT(error("a.json", R"(["one", ""])").what(), HasSubstr("item 1"));
}

TEST_F(Dataset, CutsTextAndDropsALastTokenAlone) {
  EXPECT_THAT(samples("a.txt", "abcdefgh", 3), ElementsAre("abc", "def", "gh"));
  EXPECT_THAT(samples("a.txt", "abcdefg", 3), ElementsAre("abc", "def"));
  EXPECT_THAT(samples("a.txt", "abcdef", 3), ElementsAre("abc", "def"));
}

TEST_F(Dataset, RefusesAFileWithoutSamples) {
  for (const char* name : {"a.jsonl", "a.txt"}) EXPECT_EQ(error(name, "").code(), ErrorCode::kData);
  EXPECT_THAT(error("a.json", "[]").what(), HasSubstr("no samples"));
  EXPECT_THAT(error("a.txt", "x").what(), HasSubstr("no samples"));
}

TEST_F(Dataset, RefusesTextThatIsNotUtf8NamingTheFile) {
  const Error e = error("a.txt", "ab\xFFz");
  EXPECT_EQ(e.code(), ErrorCode::kData);
  EXPECT_THAT(e.what(), HasSubstr("a.txt: byte 2"));
}

TEST_F(Dataset, RefusesAnotherSuffix) {
  EXPECT_THAT(error("a.csv", "x").what(), HasSubstr("\".csv\""));
  EXPECT_EQ(
      test::error_of([&] { load_samples(directory_.path() / "none.jsonl", tokenizer_, 4); }).code(),
      ErrorCode::kIo);
}

TEST_F(Dataset, GivesTheSameSamplesOnAnyNumberOfThreads) {
  std::string lines;
  for (int i = 0; i < 50; ++i)
    lines += "{\"inputs_pretokenized\": \"text " + std::to_string(i) + "\"}\n";
  const int before = num_threads();
  set_num_threads(1);
  const auto one = samples("a.jsonl", lines);
  set_num_threads(4);
  EXPECT_EQ(samples("a.jsonl", lines), one);
  set_num_threads(before);
}

TEST_F(Dataset, CutsWindowsAndDropsTheRemainder) {
  const auto file = directory_.write("a.txt", "abcdefgh");
  EXPECT_THAT(token_windows(file, tokenizer_, 3),
              ElementsAre(ElementsAre('a', 'b', 'c'), ElementsAre('d', 'e', 'f')));
  EXPECT_THAT(token_windows(file, tokenizer_, 8), SizeIs(1));
  const Error e = test::error_of([&] { token_windows(file, tokenizer_, 9); });
  EXPECT_EQ(e.code(), ErrorCode::kData);
  EXPECT_THAT(e.what(), HasSubstr("8 tokens"));
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
