#include "hf/records.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/collapse.h"
#include "core/error.h"
#include "core/words.h"
#include "hf/data_file.h"
#include "hf/json_file.h"
#include "hf/parquet.h"
#include "hf/unicode.h"

namespace laos::hf {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxTexts = 1'000'000;
constexpr int64_t kMaxIds = 16'000'000;

// What an object's keys mean. The first key that is there and not null decides.
enum class KeyKind { kText, kIds, kMessages, kQuestion };
struct Key {
  std::string_view name;
  KeyKind kind;
};
constexpr std::array kKeys = {Key{"inputs_pretokenized", KeyKind::kText},
                              Key{"input_ids", KeyKind::kIds},
                              Key{"ids", KeyKind::kIds},
                              Key{"messages", KeyKind::kMessages},
                              Key{"conversations", KeyKind::kMessages},
                              Key{"conversation", KeyKind::kMessages},
                              Key{"text", KeyKind::kText},
                              Key{"content", KeyKind::kText},
                              Key{"prompt", KeyKind::kQuestion},
                              Key{"instruction", KeyKind::kQuestion},
                              Key{"question", KeyKind::kQuestion}};
constexpr std::array<std::string_view, 4> kAnswers = {"completion", "response", "output", "answer"};

// Who speaks, in OpenAI's words and in ShareGPT's.
constexpr std::array<std::pair<std::string_view, std::string_view>, 13> kRoles = {{
    {"system", "system"},
    {"user", "user"},
    {"human", "user"},
    {"assistant", "assistant"},
    {"gpt", "assistant"},
    {"chatgpt", "assistant"},
    {"bing", "assistant"},
    {"bard", "assistant"},
    {"model", "assistant"},
    {"bot", "assistant"},
    {"tool", "tool"},
    {"observation", "tool"},
    {"function_response", "tool"},
}};

std::string ticked(std::string_view name) { return "`" + std::string(name) + "`"; }

// "`a`, `b` or `c`"
template <class Names>
std::string ticked_list(const Names& names, std::string_view last) {
  return listed(names, last, "`");
}

std::vector<std::string_view> keys_of(KeyKind kind) {
  std::vector<std::string_view> names;
  for (const Key& key : kKeys)
    if (key.kind == kind) names.push_back(key.name);
  return names;
}

std::string known_keys() {
  return "write " + ticked_list(keys_of(KeyKind::kText), "or") + " (a text), " +
         ticked_list(keys_of(KeyKind::kIds), "or") + " (token ids), " +
         ticked_list(keys_of(KeyKind::kMessages), "or") + " (turns of a chat), or " +
         ticked_list(keys_of(KeyKind::kQuestion), "or") + " with " + ticked_list(kAnswers, "or") +
         "; or name the key that has the text: FILE:KEY";
}

[[noreturn]] void refuse(const std::string& what, const std::string& where,
                         const std::string& fix = known_keys()) {
  throw Error(ErrorCode::kData, {.what = what, .where = where, .fix = fix});
}

// The value of a key, null where it is absent: tables fill what a row has not with null.
const Json* value_of_key(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

const std::string& string_of(const Json& value, std::string_view key, const std::string& where) {
  if (!value.is_string()) refuse(ticked(key) + " is no string", where);
  return value.get_ref<const std::string&>();
}

std::vector<int32_t> token_ids_of(const Json& list, const std::string& where) {
  std::vector<int32_t> ids;
  bool good = list.is_array();
  for (size_t i = 0; good && i < list.size(); ++i) {
    good = list[i].is_number_integer() && list[i].get<int64_t>() >= 0 &&
           list[i].get<int64_t>() <= std::numeric_limits<int32_t>::max();
    if (good) ids.push_back(list[i].get<int32_t>());
  }
  if (!good) refuse("this is no list of token ids", where, "write [1, 2, 3]");
  return ids;
}

// Thrown by a conversation that holds more than text.
struct NotText {
  std::string what;
};

// A turn's words: a string, or a list of parts of which all are text.
std::string content_of(const Json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  if (!content.is_array()) refuse("what a turn says is no string", where);
  for (const Json& part : content) {
    const Json* words = part.is_object() ? value_of_key(part, "text") : nullptr;
    if (words == nullptr || !words->is_string())
      throw NotText{"a turn holds something other than text"};
    text += words->get_ref<const std::string&>();
  }
  return text;
}

ChatMessage message_of(const Json& json, const std::string& where) {
  if (!json.is_object()) refuse("a turn of a chat is no object", where);
  for (const std::string_view calls : {"tool_calls", "function_call"})
    if (const Json* value = value_of_key(json, calls); value != nullptr && !value->empty())
      throw NotText{"a turn has " + ticked(calls) + ", which laos does not write"};
  const Json* role = value_of_key(json, "role");
  if (role == nullptr) role = value_of_key(json, "from");
  const Json* content = value_of_key(json, "content");
  if (content == nullptr) content = value_of_key(json, "value");
  if (role == nullptr || !role->is_string() || content == nullptr)
    refuse("a turn has no `role` and `content`, or `from` and `value`", where);
  for (const auto& [name, meaning] : kRoles)
    if (role->get_ref<const std::string&>() == name)
      return {.role = std::string(meaning), .content = content_of(*content, where)};
  std::vector<std::string_view> names;
  for (const auto& [name, meaning] : kRoles) names.push_back(name);
  refuse("nobody speaks as " + ticked(role->get_ref<const std::string&>()), where,
         "the roles are " + ticked_list(names, "and"));
}

std::vector<ChatMessage> messages_of(const Json& list, const std::string& where) {
  if (!list.is_array()) refuse("the turns of a chat are no list", where);
  std::vector<ChatMessage> messages;
  for (const Json& message : list) messages.push_back(message_of(message, where));
  return messages;
}

void append(std::vector<ChatMessage>& messages, std::vector<ChatMessage> more) {
  std::move(more.begin(), more.end(), std::back_inserter(messages));
}

// `prompt` + `completion` are one text as they stand; other questions and answers are joined by a
// line's end. Either may be a list of turns.
void read_question(const Json& object, std::string_view key, const Json& question, RecordPart part,
                   Record& record) {
  const Json* answer = nullptr;
  std::string_view answer_key;
  for (const std::string_view name : kAnswers) {
    answer = value_of_key(object, name);
    answer_key = name;
    if (answer != nullptr) break;
  }
  if (part == RecordPart::kQuestion)
    answer = nullptr;
  else if (answer == nullptr)
    refuse(ticked(key) + " has no answer beside it", record.where,
           "write it as " + ticked_list(kAnswers, "or") +
               "; for questions alone name the key: FILE:" + std::string(key));
  if (question.is_array()) {
    record.messages = messages_of(question, record.where);
    if (answer != nullptr && answer->is_array())
      append(record.messages, messages_of(*answer, record.where));
    else if (answer != nullptr)
      record.messages.push_back(
          {.role = "assistant", .content = string_of(*answer, answer_key, record.where)});
    return;
  }
  record.text = string_of(question, key, record.where);
  const auto join = [&](const std::string& more, bool in_line) {
    if (!record.text.empty() && !more.empty() && !in_line) record.text += '\n';
    record.text += more;
  };
  if (const Json* input = value_of_key(object, "input"); input != nullptr && key == "instruction")
    join(string_of(*input, "input", record.where), false);
  if (answer != nullptr)
    join(string_of(*answer, answer_key, record.where), answer_key == "completion");
}

std::string keys_found(const Json& object) {
  constexpr size_t kMostKeys = 16, kMostBytes = 64;
  if (object.empty()) return "the object is empty";
  std::vector<std::string_view> names;
  for (const auto& [key, value] : object.items())
    if (names.size() < kMostKeys && key.size() <= kMostBytes) names.push_back(key);
  if (names.empty()) return "none of the object's keys is one that laos reads";
  return "of the keys that it has, " + ticked_list(names, "and") +
         (names.size() < object.size() ? " and more" : "") + ", laos reads none";
}

void read_object(const Json& object, const std::string& wanted, RecordPart part, Record& record) {
  if (!wanted.empty()) {
    const auto found = object.find(wanted);
    if (found == object.end()) refuse("there is no key " + ticked(wanted), record.where);
    if (!found->is_null()) record.text = string_of(*found, wanted, record.where);
    return;
  }
  for (const auto& [key, kind] : kKeys) {
    const Json* value = value_of_key(object, key);
    if (value == nullptr) continue;
    switch (kind) {
      case KeyKind::kText:
        record.text = string_of(*value, key, record.where);
        return;
      case KeyKind::kIds:
        record.ids = token_ids_of(*value, record.where + ": " + ticked(key));
        return;
      case KeyKind::kQuestion:
        read_question(object, key, *value, part, record);
        break;
      case KeyKind::kMessages:
        record.messages = messages_of(*value, record.where);
        break;
    }
    // ShareGPT's files often have the system's turn beside the others.
    const Json* system = value_of_key(object, "system");
    if (system != nullptr && system->is_string() && !system->empty() && !record.messages.empty() &&
        record.messages.front().role != "system" && !system->get_ref<const std::string&>().empty())
      record.messages.insert(record.messages.begin(),
                             {.role = "system", .content = system->get<std::string>()});
    return;
  }
  // A text that is null is an empty one.
  const auto is_there = [&](const Key& key) { return object.contains(key.name); };
  if (std::none_of(kKeys.begin(), kKeys.end(), is_there)) refuse(keys_found(object), record.where);
}

Record record_of(const Json& json, const std::string& key, RecordPart part, std::string where) {
  Record record{.text = {}, .messages = {}, .ids = {}, .where = std::move(where)};
  try {
    if (json.is_string())
      record.text = json.get<std::string>();
    else if (json.is_object())
      read_object(json, key, part, record);
    else
      refuse("this is neither a JSON object nor a string", record.where);
  } catch (NotText& reason) {
    if (part == RecordPart::kQuestion)
      refuse(reason.what, record.where, "leave such conversations out");
    record.not_text = std::move(reason.what);
  }
  // What is asked for is not part of the question.
  if (part == RecordPart::kQuestion)
    while (!record.messages.empty() && record.messages.back().role == "assistant")
      record.messages.pop_back();
  return record;
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

bool is_empty(const Record& record) {
  return record.ids.empty() && is_blank(record.text) && record.not_text.empty() &&
         std::all_of(record.messages.begin(), record.messages.end(),
                     [](const ChatMessage& message) { return is_blank(message.content); });
}

void require_utf8(std::string_view text, const std::string& where) {
  const size_t at = first_invalid_utf8(text);
  if (at != std::string_view::npos)
    refuse("the text is not UTF-8", where + ", byte " + std::to_string(at + 1),
           "convert the file, as with `iconv -f ENCODING -t UTF-8`, or leave the text out");
}

Json parse(std::string_view text, const std::string& where) {
  require_utf8(text, where);
  try {
    return parse_json<Json>(std::string(text), where, kMaxIds);
  } catch (const Error& error) {
    refuse(error.problems().front().what, where, "write one JSON object a line");
  }
}

// Takes records one after the other; what is wrong with some is told of all at the end, like
// problems as one.
class RecordReader {
 public:
  RecordReader(const DataFile& file, RecordPart part) : file_(file), part_(part) {}

  Records read() {
    switch (file_.kind()) {
      case DataKind::kJsonLines:
        read_lines([&](std::string_view line, const std::string& where) {
          add(parse(line, where), where);
        });
        break;
      case DataKind::kJson:
        read_list();
        break;
      case DataKind::kCsv:
        read_csv();
        break;
      case DataKind::kParquet:
        read_parquet();
        break;
      case DataKind::kText:
        read_text();
        break;
    }
    if (problems_.count() > 0) throw Error(ErrorCode::kData, problems_.list());
    return std::move(records_);
  }

 private:
  // Calls take(); what it throws becomes a problem.
  template <class Take>
  void guarded(Take&& take) {
    try {
      take();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kData) throw;
      for (const Problem& problem : error.problems()) problems_.add(problem);
    }
  }

  void count(const std::string& unit) {
    if (++taken_ > kMaxTexts)
      throw Error(ErrorCode::kData,
                  {.what = "the file has more than " + std::to_string(kMaxTexts) + " " + unit,
                   .where = file_.name(),
                   .fix = "use a part of it"});
  }

  void add(Record record) {
    if (is_empty(record))
      ++records_.num_empty;
    else
      records_.list.push_back(std::move(record));
  }
  void add(const Json& json, std::string where) {
    add(record_of(json, file_.source().key, part_, std::move(where)));
  }

  template <class Take>
  void read_lines(Take&& take) {
    std::string_view rest = file_.bytes();
    for (int64_t number = 1; !rest.empty(); ++number) {
      std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (is_blank(line)) continue;
      count("lines");
      guarded([&] { take(line, file_.name() + ":" + std::to_string(number)); });
    }
  }

  // Whether it would be a record of a file of JSON lines.
  bool is_json_line(std::string_view line) const {
    if (!line.starts_with('{')) return false;
    try {
      record_of(parse(line, file_.name()), "", part_, file_.name());
    } catch (const Error&) {
      return false;
    }
    return true;
  }

  void read_text() {
    if (part_ == RecordPart::kQuestion)
      return read_lines([&](std::string_view line, const std::string& where) {
        require_utf8(line, where);
        add({.text = std::string(line), .messages = {}, .ids = {}, .where = where});
      });
    const size_t wrong = first_invalid_utf8(file_.bytes());
    if (wrong != std::string_view::npos) {
      const std::string_view before = file_.bytes().substr(0, wrong);
      const auto line = 1 + std::count(before.begin(), before.end(), '\n');
      refuse("the text is not UTF-8", file_.name() + ":" + std::to_string(line),
             "convert the file, as with `iconv -f ENCODING -t UTF-8`");
    }
    if (file_.bytes().find('\0') != std::string_view::npos)
      refuse("the file holds NUL bytes: it is no text", file_.name(),
             "write it as text, JSON lines or CSV");
    if (is_json_line(file_.bytes().substr(0, file_.bytes().find('\n'))))
      refuse("these are JSON lines, and the file's name is that of a plain text", file_.name(),
             "let its name end in .jsonl");
    records_.is_running_text = true;
    add({.text = std::string(file_.bytes()), .messages = {}, .ids = {}, .where = file_.name()});
  }

  // Items are taken as the parser meets them, so that memory is that of one and of what is kept.
  void read_list() {
    const std::string_view json = file_.bytes();
    const std::string name = file_.name();
    const auto malformed = [&](const std::string& what) {
      refuse(what, name, "write a JSON list of texts, of objects or of lists of token ids");
    };
    const size_t open = json.find_first_not_of(" \t\r\n");
    if (open == std::string_view::npos || json[open] != '[') malformed("this is no JSON list");
    const size_t first = json.find_first_not_of(" \t\r\n", open + 1);
    if (first != std::string_view::npos && json[first] >= '0' && json[first] <= '9') {
      guarded([&] {
        add({.text = {},
             .messages = {},
             .ids = token_ids_of(parse(json, name), name),
             .where = name});
      });
      return;
    }
    if (json.find('\0') != std::string_view::npos) malformed("the JSON holds a NUL byte");
    constexpr int64_t kMaxDepth = 100;  // as parse_json's
    if (measure_json(json).depth > kMaxDepth) malformed("the JSON is nested too deeply");
    int64_t number = 0;
    using Event = Json::parse_event_t;
    const auto on_event = [&](int depth, Event event, Json& parsed) {
      if (depth != 1 ||
          (event != Event::object_end && event != Event::array_end && event != Event::value))
        return true;
      count("items");
      const std::string where = name + ": item " + std::to_string(++number);
      guarded([&] {
        if (parsed.is_array())
          add({.text = {}, .messages = {}, .ids = token_ids_of(parsed, where), .where = where});
        else
          add(parsed, where);
      });
      return false;
    };
    try {
      [[maybe_unused]] const Json left = Json::parse(json.begin(), json.end(), on_event);
    } catch (const Json::parse_error& error) {
      const size_t at = std::min(error.byte, json.size());
      const auto line = 1 + std::count(json.begin(), json.begin() + static_cast<int64_t>(at), '\n');
      if (first_invalid_utf8(json) < at)
        refuse("the text is not UTF-8", name + ":" + std::to_string(line),
               "convert the file, as with `iconv -f ENCODING -t UTF-8`");
      malformed("malformed JSON in line " + std::to_string(line));
    }
  }

  void read_parquet() {
    if (file_.source().is_stdin())
      throw Error(ErrorCode::kUnsupported, {.what = "Parquet is not read from standard input",
                                            .where = file_.name(),
                                            .fix = "give the file's path"});
    int64_t number = 0;
    for_each_parquet_row(file_.source().file, [&](const Json& row) {
      count("rows");
      const std::string where = file_.name() + ": row " + std::to_string(++number);
      guarded([&] { add(row, where); });
    });
  }

  // RFC 4180: fields in quotes may hold commas, line ends and doubled quotes. A row is an object of
  // its columns. What separates them is what the first line has.
  void read_csv() {
    std::string_view rest = file_.bytes();
    int64_t line = 1;
    std::vector<std::string> names, fields;
    const std::string_view first_line = rest.substr(0, rest.find('\n'));
    const size_t found = first_line.find(',') != std::string_view::npos
                             ? first_line.find(',')
                             : first_line.find_first_of(";\t");
    const char separator = found == std::string_view::npos ? ',' : first_line[found];
    while (!rest.empty()) {
      const std::string where = file_.name() + ":" + std::to_string(line);
      const std::string_view row = rest;
      take_csv_row(rest, separator, line, where, fields);
      if (is_blank(row.substr(0, row.size() - rest.size()))) continue;
      if (names.empty()) {
        require_utf8(row.substr(0, row.size() - rest.size()), where);
        names = fields;
        continue;
      }
      count("rows");
      guarded([&] {
        require_utf8(row.substr(0, row.size() - rest.size()), where);
        if (fields.size() != names.size())
          refuse(
              "the row's number of fields is not that of the columns in the first line",
              where + ", " + std::to_string(fields.size()) + " for " + std::to_string(names.size()),
              "put texts with commas or line ends into double quotes");
        Json object = Json::object();
        for (size_t i = 0; i < names.size(); ++i) object[names[i]] = std::move(fields[i]);
        add(object, where);
      });
    }
  }

  void take_csv_row(std::string_view& rest, char separator, int64_t& line, const std::string& where,
                    std::vector<std::string>& fields) {
    fields.assign(1, "");
    bool in_quotes = false;
    while (!rest.empty()) {
      const char c = rest.front();
      rest.remove_prefix(1);
      if (c == '\n') ++line;
      if (in_quotes) {
        if (c != '"') {
          fields.back() += c;
        } else if (rest.starts_with('"')) {
          fields.back() += c;
          rest.remove_prefix(1);
        } else {
          in_quotes = false;
        }
      } else if (c == '"' && fields.back().empty()) {
        in_quotes = true;
      } else if (c == separator) {
        fields.emplace_back();
      } else if (c == '\n') {
        return;
      } else if (c != '\r' || !(rest.empty() || rest.front() == '\n')) {
        fields.back() += c;
      }
    }
    if (in_quotes) refuse("a quote is not closed", where, "end the field with a double quote");
  }

  const DataFile& file_;
  const RecordPart part_;
  Records records_;
  size_t taken_ = 0;
  CollapsedProblems problems_{/*listed=*/1, /*kinds=*/20};
};

}  // namespace

Records read_records(const std::filesystem::path& name, RecordPart part) {
  const DataFile file(name);
  return RecordReader(file, part).read();
}

Record record_of_line(std::string_view line, const std::string& where, RecordPart part) {
  return record_of(parse(line, where), "", part, where);
}

}  // namespace laos::hf
