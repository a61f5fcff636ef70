#include "hf/records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using test::error_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

class RecordsOf : public testing::Test {
 protected:
  Records read(const std::string& name, std::string_view content,
               RecordPart part = RecordPart::kAll) const {
    return read_records(directory_.write(name, content), part);
  }
  std::vector<std::string> texts(const std::string& name, std::string_view content,
                                 RecordPart part = RecordPart::kAll) const {
    std::vector<std::string> texts;
    for (const Record& record : read(name, content, part).list) texts.push_back(record.text);
    return texts;
  }
  // Each turn as "role: words".
  std::vector<std::string> turns(std::string_view line, RecordPart part = RecordPart::kAll) const {
    std::vector<std::string> turns;
    for (const ChatMessage& message : record_of_line(line, "f:1", part).messages)
      turns.push_back(message.role + ": " + message.content);
    return turns;
  }
  std::string problem(const std::string& name, std::string_view content,
                      RecordPart part = RecordPart::kAll) const {
    const Error error = error_of([&] { read(name, content, part); });
    EXPECT_EQ(error.code(), ErrorCode::kData) << error.what();
    return error.what();
  }
  test::TempDirectory directory_;
};

TEST_F(RecordsOf, LinesAreReadByTheKeysThatTheyHave) {
  const Records records = read("a.jsonl", R"({"inputs_pretokenized": "one", "ids": [9], "id": 7})"
                                          "\n\n  \r\n"
                                          R"({"text": "two\n", "meta": {"text": "no"}})"
                                          "\n"
                                          R"({"text": null, "content": "three"})"
                                          "\n"
                                          R"({"input_ids": [1, 2], "attention_mask": [1, 1]})"
                                          "\n"
                                          R"({"ids": [3], "text": "x"})"
                                          "\n\"four\"");
  ASSERT_THAT(records.list, SizeIs(6));
  EXPECT_EQ(records.list[0].text, "one");
  EXPECT_EQ(records.list[1].text, "two\n");
  EXPECT_EQ(records.list[2].text, "three");
  EXPECT_THAT(records.list[3].ids, ElementsAre(1, 2));
  EXPECT_THAT(records.list[4].ids, ElementsAre(3));
  EXPECT_EQ(records.list[5].text, "four");
  EXPECT_THAT(records.list[1].where, testing::EndsWith("a.jsonl:4"));
}

TEST_F(RecordsOf, QuestionsAreJoinedWithTheirAnswers) {
  const std::string lines = R"({"prompt": "a", "completion": " b"})"
                            "\n"
                            R"({"prompt": "c", "response": "d"})"
                            "\n"
                            R"({"instruction": "e", "input": "f", "output": "g"})"
                            "\n"
                            R"({"instruction": "h", "input": "", "output": "i"})"
                            "\n"
                            R"({"question": "j", "answer": "k"})"
                            "\n";
  EXPECT_THAT(texts("a.jsonl", lines), ElementsAre("a b", "c\nd", "e\nf\ng", "h\ni", "j\nk"));
  EXPECT_THAT(texts("a.jsonl", lines, RecordPart::kQuestion),
              ElementsAre("a", "c", "e\nf", "h", "j"));
}

TEST_F(RecordsOf, QuestionsWithoutAnAnswerAreRefusedWhereBothAreWanted) {
  EXPECT_THAT(problem("a.jsonl", R"({"question": "a", "context": "b", "answers": {"text": []}})"),
              AllOf(HasSubstr("`question` has no answer"), HasSubstr("`completion`"),
                    HasSubstr("a.jsonl:1")));
  EXPECT_THAT(texts("a.jsonl", R"({"prompt": "a"})", RecordPart::kQuestion), ElementsAre("a"));
}

TEST_F(RecordsOf, TurnsAreThoseOfOpenAiAndOfShareGpt) {
  EXPECT_THAT(turns(R"({"messages": [{"role": "system", "content": "s"}, {"role": "user",
                        "content": [{"type": "text", "text": "u"}, {"type": "text", "text": "v"}]},
                        {"role": "assistant", "content": "a", "tool_calls": null}]})"),
              ElementsAre("system: s", "user: uv", "assistant: a"));
  EXPECT_THAT(turns(R"({"id": "x", "system": "s", "conversations": [{"from": "human", "value": "u"},
                        {"from": "gpt", "value": "a"}]})"),
              ElementsAre("system: s", "user: u", "assistant: a"));
  EXPECT_THAT(turns(R"({"prompt": [{"role": "user", "content": "u"}],
                        "completion": [{"role": "assistant", "content": "a"}]})"),
              ElementsAre("user: u", "assistant: a"));
  EXPECT_THAT(turns(R"({"messages": [{"role": "user", "content": "u"},
                        {"role": "assistant", "content": "a"}]})",
                    RecordPart::kQuestion),
              ElementsAre("user: u"));
}

TEST_F(RecordsOf, TurnsThatCannotBeWrittenAreRefused) {
  const auto refused = [&](const std::string& turn) {
    return problem("a.jsonl", "{\"messages\": [" + turn + "]}");
  };
  EXPECT_THAT(refused(R"({"role": "narrator", "content": "x"})"),
              AllOf(HasSubstr("`narrator`"), HasSubstr("`human`"), HasSubstr("a.jsonl:1")));
  EXPECT_THAT(refused(R"({"role": "user"})"), HasSubstr("`content`"));
  EXPECT_THAT(refused("\"hello\""), HasSubstr("no object"));
}

TEST_F(RecordsOf, ConversationsOfMoreThanTextAreKeptWithTheReasonAndRefusedAsQuestions) {
  const auto reason = [&](const std::string& turn) {
    const std::string line = "{\"messages\": [" + turn + "]}";
    EXPECT_THAT(problem("a.jsonl", line, RecordPart::kQuestion), HasSubstr("a.jsonl:1"));
    const Records records = read("a.jsonl", line);
    EXPECT_EQ(records.num_empty, 0);
    EXPECT_THAT(records.list.front().messages, SizeIs(0));
    return records.list.front().not_text;
  };
  EXPECT_THAT(reason(R"({"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]})"),
              HasSubstr("`tool_calls`"));
  EXPECT_THAT(reason(R"({"role": "user", "content": [{"type": "image", "image": "x"}]})"),
              HasSubstr("other than text"));
}

TEST_F(RecordsOf, ObjectsOfOtherKeysAreRefusedNamingThemAndThoseThatAreRead) {
  EXPECT_THAT(problem("a.jsonl", "{\"text\": \"a\"}\n{\"body\": \"b\", \"n\": 1}\n"),
              AllOf(HasSubstr("`body` and `n`"), HasSubstr("a.jsonl:2"), HasSubstr("`text`"),
                    HasSubstr("`conversations`"), HasSubstr("FILE:KEY")));
  EXPECT_THAT(problem("a.jsonl", "{}"), HasSubstr("empty"));
}

TEST_F(RecordsOf, AKeyOfOnesOwnIsNamedBehindTheFile) {
  const auto file = directory_.write("a.jsonl", "{\"body\": \"b\", \"text\": \"t\"}\n");
  EXPECT_EQ(read_records(file.string() + ":body", RecordPart::kAll).list.front().text, "b");
  EXPECT_THAT(error_of([&] { read_records(file.string() + ":other", RecordPart::kAll); }).what(),
              HasSubstr("`other`"));
  const auto colon = directory_.write("b.jsonl:text", "a text");
  EXPECT_EQ(read_records(colon, RecordPart::kAll).list.front().text, "a text");
}

TEST_F(RecordsOf, EveryWrongLineIsNamedAndThoseAlikeAreOneProblem) {
  const Error error = error_of([&] {
    read("a.jsonl",
         "{\"text\": 5}\n[1]\n{\"text\": \"a\"}\n\n{\"text\": [1]}\n{\"inputs\n{\"text\": {}}\n");
  });
  std::vector<std::string> places;
  for (const Problem& p : error.problems()) places.push_back(p.where);
  EXPECT_THAT(places, testing::UnorderedElementsAre(
                          testing::EndsWith("a.jsonl:1, and 2 more like it"),
                          testing::EndsWith("a.jsonl:2"), testing::EndsWith("a.jsonl:6")));
}

TEST_F(RecordsOf, TextThatIsNotUtf8IsRefusedWithItsLine) {
  EXPECT_THAT(problem("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xFF\"}\n"),
              AllOf(HasSubstr("not UTF-8"), HasSubstr("a.jsonl:2")));
  EXPECT_THAT(problem("a.txt", "one\ntwo\n\xFF"), AllOf(HasSubstr("UTF-8"), HasSubstr("a.txt:3")));
  EXPECT_THAT(problem("a.csv", "text\na\n\xFF\n"), AllOf(HasSubstr("UTF-8"), HasSubstr("a.csv:3")));
  EXPECT_THAT(problem("a.json", "[\"a\",\n\"\xFF\"]"),
              AllOf(HasSubstr("UTF-8"), HasSubstr("a.json:2")));
  EXPECT_THAT(problem("a.txt", "one\n\xFF", RecordPart::kQuestion), HasSubstr("a.txt:2"));
}

// In silence these would be calibrated on as they stand.
TEST_F(RecordsOf, PlainTextIsNeitherBinaryNorJsonLines) {
  EXPECT_THAT(problem("a.arrow", std::string("ARROW1\0\0abc", 11)), HasSubstr("it is no text"));
  EXPECT_THAT(problem("a.txt", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n"),
              AllOf(HasSubstr("these are JSON lines"), HasSubstr("end in .jsonl")));
  const std::string code = "{\"other\": 1}\nand text\n";
  EXPECT_THAT(texts("a.txt", code), ElementsAre(code));
}

TEST_F(RecordsOf, EmptyTextsAreCountedAndLeftOut) {
  const Records records = read("a.jsonl",
                               "{\"text\": \"\"}\n{\"text\": \"a\"}\n{\"text\": \" \\n\"}\n"
                               "{\"ids\": []}\n{\"messages\": [{\"role\": \"user\", \"content\": "
                               "\"\"}]}\n{\"messages\": []}\n");
  EXPECT_THAT(records.list, SizeIs(1));
  EXPECT_EQ(records.num_empty, 5);
  EXPECT_EQ(read("a.jsonl", "{\"text\": null, \"id\": 1}\n{\"prompt\": null}\n").num_empty, 2);
  EXPECT_EQ(read("a.txt", " \n").num_empty, 1);
}

TEST_F(RecordsOf, JsonIsAListOfTextsObjectsOrIds) {
  EXPECT_THAT(texts("a.json", R"(["one", {"text": "two"}, {"prompt": "a", "completion": "b"}])"),
              ElementsAre("one", "two", "ab"));
  EXPECT_THAT(texts("a.jsonl", "[\n  {\n    \"text\": \"one\"\n  }\n]\n"), ElementsAre("one"));
  EXPECT_THAT(read("a.json", "[1, 2]").list.front().ids, ElementsAre(1, 2));
  EXPECT_THAT(read("a.json", "[[1], [2, 3]]").list[1].ids, ElementsAre(2, 3));
  EXPECT_THAT(texts("a.json", "[]"), SizeIs(0));
  EXPECT_THAT(texts("a.json", "{\"text\": \"lines\"}\n{\"text\": \"in .json\"}\n"),
              ElementsAre("lines", "in .json"));
}

TEST_F(RecordsOf, JsonThatIsNoSuchListIsRefusedWithItsPlace) {
  EXPECT_THAT(problem("a.json", R"(["a", [["b"]]])"), HasSubstr("item 2"));
  EXPECT_THAT(problem("a.json", R"(["a", "b", 3])"), HasSubstr("item 3"));
  EXPECT_THAT(problem("a.json", "[\"a\",\n,]"), HasSubstr("line 2"));
  EXPECT_THAT(problem("a.json", "\"a\""), HasSubstr("no JSON list"));
  for (const char* bad :
       {"[1, -2]", "[1, 99999999999]", "[[1], 2]", "[[1], [1.5]]", "[1", "[1, \"a\"]", "[\"a\"] x"})
    EXPECT_THAT(problem("a.json", bad), HasSubstr("a.json")) << bad;
  EXPECT_THAT(problem("a.json", std::string(1000, '[') + std::string(1000, ']')),
              HasSubstr("deep"));
  EXPECT_THAT(problem("a.jsonl", "{\"a\": " + std::string(1000, '[')), HasSubstr("deep"));
}

TEST_F(RecordsOf, CsvHasItsTextInAColumn) {
  EXPECT_THAT(texts("a.CSV", "id,text\r\n1,one\r\n\r\n2,\"two, \"\"2\"\"\nlines\"\r\n3,\r\n"),
              ElementsAre("one", "two, \"2\"\nlines"));
  EXPECT_THAT(texts("a.csv", "prompt,completion\na,b\n"), ElementsAre("ab"));
  const auto file = directory_.write("b.csv", "body,text\nthis,not\n");
  EXPECT_EQ(read_records(file.string() + ":body", RecordPart::kAll).list.front().text, "this");
}

TEST_F(RecordsOf, CsvMayBeSeparatedBySemicolonsOrTabs) {
  EXPECT_THAT(texts("a.csv", "id;text\n1;one, two\n2;\"a;b\"\n"), ElementsAre("one, two", "a;b"));
  EXPECT_THAT(texts("a.tsv", "id\ttext\r\n1\tone; two\r\n"), ElementsAre("one; two"));
  EXPECT_THAT(texts("a.csv", "text\none; two\n"), ElementsAre("one; two"));
}

TEST_F(RecordsOf, CsvOfOtherShapeIsRefusedWithItsLine) {
  EXPECT_THAT(problem("a.csv", "title,body\na,b\n"), AllOf(HasSubstr("`title`"), HasSubstr(":2")));
  EXPECT_THAT(problem("a.csv", "text,n\n\"a\nb\",1\nc\n"), HasSubstr("a.csv:4, 1 for 2"));
  EXPECT_THAT(problem("a.csv", "text\n\"a\n"), AllOf(HasSubstr("quote"), HasSubstr("a.csv:2")));
}

TEST_F(RecordsOf, EndingsCountInAnyCaseAndAByteOrderMarkIsNoText) {
  EXPECT_THAT(texts("a.JSONL", "\xEF\xBB\xBF{\"text\": \"a\"}\n"), ElementsAre("a"));
  EXPECT_THAT(texts("a.Txt", "\xEF\xBB\xBFone\n"), ElementsAre("one\n"));
  EXPECT_TRUE(read("a.md", "[1, 2]").is_running_text);
}

TEST_F(RecordsOf, PackedFilesAreUnpacked) {
  // printf '{"text": "packed"}\n' | gzip -n
  constexpr unsigned char kPacked[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03,
                                       0xab, 0x56, 0x2a, 0x49, 0xad, 0x28, 0x51, 0xb2, 0x52, 0x50,
                                       0x2a, 0x48, 0x4c, 0xce, 0x4e, 0x4d, 0x51, 0xaa, 0xe5, 0x02,
                                       0x00, 0x2c, 0xe1, 0x8d, 0x4e, 0x13, 0x00, 0x00, 0x00};
  const std::string packed(reinterpret_cast<const char*>(kPacked), sizeof kPacked);
  EXPECT_THAT(texts("a.jsonl.gz", packed), ElementsAre("packed"));
  EXPECT_THAT(texts("a.jsonl.gz", packed + packed), ElementsAre("packed", "packed"));
  EXPECT_THAT(texts("a.jsonl", packed), ElementsAre("packed"));
  EXPECT_THAT(texts("a.jsonl.gz", "{\"text\": \"not packed\"}\n"), ElementsAre("not packed"));
  for (const size_t bytes : {size_t{5}, size_t{20}, packed.size() - 1})
    EXPECT_THAT(problem("a.jsonl.gz", packed.substr(0, bytes)), HasSubstr("damaged"));
}

TEST_F(RecordsOf, AGitLfsPointerIsNoData) {
  for (const char* name : {"a.jsonl", "a.parquet", "a.txt"})
    EXPECT_THAT(problem(name, "version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
                HasSubstr("git lfs pull"))
        << name;
}

TEST_F(RecordsOf, ParquetIsReadOrRefusedWithTheLineThatConvertsIt) {
  const Error error = error_of([&] { read("a.parquet", "PAR1"); });
  if (error.code() == ErrorCode::kFormat) return;  // built with Apache Arrow
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("duckdb"), HasSubstr("a.jsonl"), HasSubstr("python3")));
}

TEST_F(RecordsOf, TextsAreOneRecordAndPromptsOneALine) {
  const std::string content = "one\r\n\n  two \n{\"prompt\": 3}";
  EXPECT_THAT(texts("p.txt", content), ElementsAre(content));
  EXPECT_TRUE(read("p.txt", content).is_running_text);
  EXPECT_THAT(texts("p.txt", content, RecordPart::kQuestion),
              ElementsAre("one", "  two ", "{\"prompt\": 3}"));
  EXPECT_FALSE(read("p.txt", content, RecordPart::kQuestion).is_running_text);
}

}  // namespace
}  // namespace laos::hf
