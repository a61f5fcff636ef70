// The texts of a file, one by one, whatever form they have in it: the one reader of data for
// calibration, evaluation and generation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "hf/chat.h"

namespace laos::hf {

// A text, a conversation or token ids: two of the three are empty.
struct Record {
  std::string text;
  std::vector<ChatMessage> messages;
  std::vector<int32_t> ids;
  std::string where;          // "FILE:LINE", "FILE: item N", "FILE: row N", "FILE"
  std::string not_text = {};  // why this conversation, whose turns are left out, is none of text
};

// What is read of a question and its answer: both, or what an answer is asked for with.
enum class RecordPart { kAll, kQuestion };

struct Records {
  std::vector<Record> list;
  int64_t num_empty = 0;         // texts of white space alone, which are left out
  bool is_running_text = false;  // a text file: one record of any length
};

// Of a file of any hf::DataKind. JSON lines, lists of JSON, rows of CSV and Parquet are objects,
// whose keys decide what is read (tables in records.cpp, docs/calibration.md); items of lists and
// lines may also be strings, items of lists also token ids, and a list of token ids alone is one
// record. A text file is one record, or one a line where only questions are read. Throws
// Error(kData) naming line, item or row (all of these at once; those that are alike are one
// problem): what is not UTF-8, malformed JSON, keys that laos does not know, wrong types, questions
// that are not of text; Error as DataFile; Error(kUnsupported) for Parquet in a build without it;
// Error(kData) for more than 1,000,000 texts.
Records read_records(const std::filesystem::path& name, RecordPart part);

// Of one line of JSON lines. Throws Error(kData) naming `where`.
Record record_of_line(std::string_view line, const std::string& where,
                      RecordPart part = RecordPart::kAll);

}  // namespace laos::hf
