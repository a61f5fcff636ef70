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

class LoadDocuments : public Dataset {
 protected:
  LoadDocuments() { directory_.write("tokenizer.json", test::small_tokenizer().dump()); }
  Documents documents(const std::string& name, std::string_view content) const {
    return load_documents(directory_.write(name, content), directory_.path());
  }
  Error refused(const std::string& name, std::string_view content) const {
    return test::error_of([&] { documents(name, content); });
  }
};

TEST_F(LoadDocuments, ReadsTextAndIdsLineByLine) {
  const Documents found = documents("a.jsonl",
                                    "{\"inputs_pretokenized\": \"ab\"}\n\n{\"ids\": [1, 2, 3], "
                                    "\"text\": \"x\"}\n{\"x\": \"ids\"}");
  ASSERT_THAT(found.ids, SizeIs(3));
  EXPECT_THAT(found.ids[0], ElementsAre('a', 'b'));
  EXPECT_THAT(found.ids[1], ElementsAre(1, 2, 3));
  EXPECT_EQ(tokenizer_.decode(found.ids[2]), "{\"x\": \"ids\"}");
  EXPECT_FALSE(found.is_running_text);
}

TEST_F(LoadDocuments, ReadsJsonListsOfTextsOfIdsAndOfListsOfIds) {
  EXPECT_THAT(documents("a.json", R"(["a", "b"])").ids,
              ElementsAre(ElementsAre('a'), ElementsAre('b')));
  EXPECT_THAT(documents("a.json", "[1, 2]").ids, ElementsAre(ElementsAre(1, 2)));
  EXPECT_THAT(documents("a.json", "[[1], [2, 3]]").ids,
              ElementsAre(ElementsAre(1), ElementsAre(2, 3)));
}

TEST_F(LoadDocuments, NeedsNoTokenizerForIds) {
  std::filesystem::remove(directory_.path() / "tokenizer.json");
  EXPECT_THAT(documents("a.json", "[1, 2]").ids, SizeIs(1));
}

TEST_F(LoadDocuments, ReadsAnyOtherFileAsRunningText) {
  const Documents found = documents("a.md", "[1, 2]");
  EXPECT_TRUE(found.is_running_text);
  EXPECT_THAT(found.ids, ElementsAre(SizeIs(6)));
}

TEST_F(LoadDocuments, NamesWhatIsWrong) {
  EXPECT_THAT(refused("a.jsonl", "{\"ids\": [1]}\n{\"ids\": [1.5]}\n{\"ids\": []}\n").what(),
              testing::AllOf(HasSubstr("a.jsonl:2: `ids`"), HasSubstr("a.jsonl:3: `ids`")));
  for (const char* bad :
       {"[1, -2]", "[1, 99999999999]", "[[1], 2]", "[[1], []]", "[1", "[1, \"a\"]"}) {
    EXPECT_EQ(refused("a.json", bad).code(), ErrorCode::kData) << bad;
    EXPECT_THAT(refused("a.json", bad).what(), HasSubstr("a.json")) << bad;
  }
  for (const char* empty : {"a.json", "a.jsonl", "a.txt"})
    EXPECT_EQ(refused(empty, empty == std::string("a.json") ? "[]" : "").code(), ErrorCode::kData);
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
