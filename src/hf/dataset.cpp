#include "hf/dataset.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/threads.h"
#include "hf/json_file.h"
#include "hf/jsonl.h"
#include "io/file.h"

namespace laos::hf {
namespace {

namespace fs = std::filesystem;

using Json = nlohmann::json;
using Samples = std::vector<std::vector<int32_t>>;

constexpr size_t kMaxDatasetBytes = size_t{1} << 30;
constexpr size_t kMaxTexts = 1'000'000;
constexpr size_t kMaxDatasetProblems = 20;
constexpr std::string_view kTextField = "inputs_pretokenized";

struct Text {
  std::string text;
  std::string where;
};

// Problems of a file's lines or items, the first of them spelled out.
class LineProblems {
 public:
  void add(Problem problem) {
    if (++count_ <= kMaxDatasetProblems) problems_.add(std::move(problem));
  }
  void throw_if_any(const std::string& file) {
    if (count_ > kMaxDatasetProblems)
      problems_.add({std::to_string(count_ - kMaxDatasetProblems) + " more problems", file, ""});
    problems_.throw_if_any(ErrorCode::kData);
  }

 private:
  Problems problems_;
  size_t count_ = 0;
};

io::MappedFile open_file(const fs::path& file) {
  io::MappedFile mapped(file);
  if (mapped.bytes().size() > kMaxDatasetBytes)
    throw Error(ErrorCode::kData, {.what = "the file has more than 1 GiB",
                                   .where = file.string(),
                                   .fix = "use a part of it"});
  return mapped;
}

std::string_view text_of(const io::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

// Calls take(line, where) for every line that is not blank; what it throws becomes a problem.
template <class Take>
void for_each_line(std::string_view lines, const std::string& file, LineProblems& problems,
                   Take&& take) {
  size_t taken = 0;
  for (int64_t number = 1; !lines.empty(); ++number) {
    std::string_view line = lines.substr(0, lines.find('\n'));
    lines.remove_prefix(std::min(lines.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (is_blank(line)) continue;
    if (++taken > kMaxTexts)
      throw Error(ErrorCode::kData,
                  {.what = "the file has more than " + std::to_string(kMaxTexts) + " lines",
                   .where = file,
                   .fix = "use a part of it"});
    try {
      take(line, file + ":" + std::to_string(number));
    } catch (const Error& error) {
      for (const Problem& problem : error.problems()) problems.add(problem);
    }
  }
}

Text text_of_line(std::string_view line, std::string where) {
  std::optional<std::string> text = string_field(line, kTextField, where);
  return {text ? std::move(*text) : std::string(line), std::move(where)};
}

std::vector<Text> jsonl_texts(std::string_view lines, const std::string& file,
                              LineProblems& problems) {
  std::vector<Text> texts;
  for_each_line(lines, file, problems, [&](std::string_view line, std::string where) {
    texts.push_back(text_of_line(line, std::move(where)));
  });
  return texts;
}

std::vector<Text> json_texts(std::string_view json, const std::string& file) {
  std::vector<Text> texts;
  for (std::string& text : string_list(json, file))
    texts.push_back({std::move(text), file + ": item " + std::to_string(texts.size())});
  return texts;
}

// A document: token ids, or, where there are none, text.
struct Item {
  std::vector<int32_t> ids;
  Text text;
};

// Throws Error(kData) unless `list` is a list of token ids, at least one.
std::vector<int32_t> token_ids(const Json& list, const std::string& where) {
  std::vector<int32_t> ids;
  bool good = list.is_array() && !list.empty();
  for (size_t i = 0; good && i < list.size(); ++i) {
    good = list[i].is_number_unsigned() &&
           list[i].get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int32_t>::max());
    if (good) ids.push_back(list[i].get<int32_t>());
  }
  if (!good)
    throw Error(ErrorCode::kData, {.what = "this is no list of token ids",
                                   .where = where,
                                   .fix = "write [1, 2, 3], with one id at least"});
  return ids;
}

Json parse_ids(std::string_view json, const std::string& where) {
  constexpr int64_t kMaxIds = 16'000'000;
  try {
    return parse_json<Json>(std::string(json), where, kMaxIds);
  } catch (const Error& error) {
    throw Error(ErrorCode::kData, error.problems());
  }
}

std::vector<Item> jsonl_items(std::string_view lines, const std::string& file,
                              LineProblems& problems) {
  std::vector<Item> items;
  for_each_line(lines, file, problems, [&](std::string_view line, std::string where) {
    if (line.find("\"ids\"") != std::string_view::npos) {
      const Json object = parse_ids(line, where);
      if (object.is_object() && object.contains("ids")) {
        items.push_back({token_ids(object["ids"], where + ": `ids`"), {}});
        return;
      }
    }
    items.push_back({{}, text_of_line(line, std::move(where))});
  });
  return items;
}

std::vector<Item> json_items(std::string_view json, const std::string& file) {
  std::vector<Item> items;
  const size_t first = json.find_first_not_of(" \t\r\n"),
               second = first == json.npos ? first : json.find_first_not_of(" \t\r\n", first + 1);
  const bool is_ids = second != json.npos && json[first] == '[' &&
                      (json[second] == '[' || (json[second] >= '0' && json[second] <= '9'));
  if (!is_ids) {
    for (Text& text : json_texts(json, file)) items.push_back({{}, std::move(text)});
    return items;
  }
  const Json list = parse_ids(json, file);
  if (!list.front().is_array()) {
    items.push_back({token_ids(list, file), {}});
    return items;
  }
  for (size_t i = 0; i < list.size(); ++i)
    items.push_back({token_ids(list[i], file + ": item " + std::to_string(i)), {}});
  return items;
}

Samples encode_all(const std::vector<Text>& texts, const Tokenizer& tokenizer,
                   LineProblems& problems) {
  Samples samples(texts.size());
  std::vector<std::optional<Problem>> found(texts.size());
  parallel_for(std::ssize(texts), [&](int64_t i) {
    const auto index = static_cast<size_t>(i);
    const Text& text = texts[index];
    try {
      samples[index] = tokenizer.encode(text.text);
      if (samples[index].empty())
        found[index] = {"a sample of no tokens", text.where, "remove it, or give it text"};
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kData) throw;
      found[index] = error.problems().front();
      found[index]->where = text.where;
    }
  });
  for (std::optional<Problem>& problem : found)
    if (problem) problems.add(std::move(*problem));
  return samples;
}

// The tokens of a whole text file; problems carry the file's name.
std::vector<int32_t> encode_file(const fs::path& file, const Tokenizer& tokenizer) {
  const io::MappedFile mapped = open_file(file);
  try {
    return tokenizer.encode(text_of(mapped));
  } catch (const Error& error) {
    std::vector<Problem> problems = error.problems();
    for (Problem& problem : problems)
      problem.where = file.string() + (problem.where.empty() ? "" : ": " + problem.where);
    throw Error(error.code(), std::move(problems));
  }
}

// Cuts of `length` tokens; the last may be shorter.
Samples cut(const std::vector<int32_t>& ids, int64_t length) {
  Samples cuts;
  for (auto begin = ids.begin(); begin != ids.end();) {
    const auto end = begin + std::min<int64_t>(length, ids.end() - begin);
    cuts.emplace_back(begin, end);
    begin = end;
  }
  return cuts;
}

bool is_file(const fs::path& path) {
  std::error_code ignored;  // what cannot be looked at is no file to us
  return fs::is_regular_file(path, ignored);
}

}  // namespace

fs::path find_dataset(const std::string& dataset, const fs::path& recipe_directory,
                      const std::vector<fs::path>& calib_directories) {
  std::vector<fs::path> places = {dataset};
  if (!fs::path(dataset).is_absolute()) {
    if (!recipe_directory.empty()) places.push_back(recipe_directory / dataset);
    for (const fs::path& directory : calib_directories) places.push_back(directory / dataset);
  }
  std::string tried;
  for (const fs::path& place : places) {
    if (is_file(place)) return place;
    tried += (tried.empty() ? "" : ", ") + place.string();
  }
  throw Error(ErrorCode::kData, {.what = "dataset \"" + dataset + "\" not found",
                                 .where = "tried " + tried,
                                 .fix = "give its path, or put it in one of these places"});
}

Samples load_samples(const fs::path& file, const Tokenizer& tokenizer, int64_t seq_len) {
  LAOS_ASSERT(seq_len > 0);
  const fs::path suffix = file.extension();
  Samples samples;
  LineProblems problems;
  if (suffix == ".jsonl") {
    const io::MappedFile mapped = open_file(file);
    samples =
        encode_all(jsonl_texts(text_of(mapped), file.string(), problems), tokenizer, problems);
  } else if (suffix == ".json") {
    const io::MappedFile mapped = open_file(file);
    samples = encode_all(json_texts(text_of(mapped), file.string()), tokenizer, problems);
  } else if (suffix == ".txt") {
    samples = cut(encode_file(file, tokenizer), seq_len);
    if (!samples.empty() && samples.back().size() < 2 && seq_len > 1) samples.pop_back();
  } else {
    throw Error(ErrorCode::kData, {.what = "a dataset cannot end in \"" + suffix.string() + "\"",
                                   .where = file.string(),
                                   .fix = "use a .jsonl, .json or .txt file"});
  }
  problems.throw_if_any(file.string());
  if (samples.empty())
    throw Error(ErrorCode::kData, {.what = "the dataset has no samples",
                                   .where = file.string(),
                                   .fix = "use a file with text in it"});
  return samples;
}

Documents load_documents(const fs::path& file, const fs::path& model_directory) {
  const fs::path suffix = file.extension();
  Documents documents;
  LineProblems problems;
  if (suffix == ".jsonl" || suffix == ".json") {
    const io::MappedFile mapped = open_file(file);
    std::vector<Item> items = suffix == ".jsonl"
                                  ? jsonl_items(text_of(mapped), file.string(), problems)
                                  : json_items(text_of(mapped), file.string());
    std::vector<Text> texts;
    for (Item& item : items)
      if (item.ids.empty()) texts.push_back(std::move(item.text));
    Samples encoded;
    if (!texts.empty()) encoded = encode_all(texts, Tokenizer::load(model_directory), problems);
    auto next = encoded.begin();
    for (Item& item : items)
      documents.ids.push_back(item.ids.empty() ? std::move(*next++) : std::move(item.ids));
  } else {
    documents.is_running_text = true;
    documents.ids.push_back(encode_file(file, Tokenizer::load(model_directory)));
    if (documents.ids.back().empty()) documents.ids.clear();
  }
  problems.throw_if_any(file.string());
  if (documents.ids.empty())
    throw Error(ErrorCode::kData, {.what = "there are no texts to evaluate on",
                                   .where = file.string(),
                                   .fix = "use a file with text or token ids in it"});
  return documents;
}

}  // namespace laos::hf
