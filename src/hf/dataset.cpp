#include "hf/dataset.h"

#include <algorithm>
#include <optional>
#include <random>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/rng.h"
#include "core/threads.h"
#include "hf/data_file.h"
#include "hf/records.h"

namespace laos::hf {
namespace {

namespace fs = std::filesystem;

using Samples = std::vector<std::vector<int32_t>>;

bool is_dataset_file(const fs::path& path) {
  std::error_code ignored;  // what cannot be looked at is no file to us
  return fs::is_regular_file(data_source_of(path).file, ignored);
}

// Keeps `count` of them, drawn, in their order.
template <class T>
void draw(std::vector<T>& items, int64_t count, uint32_t seed) {
  if (count <= 0 || count >= std::ssize(items)) return;
  std::mt19937 generator(seed);
  std::vector<int64_t> order = random_permutation(generator, std::ssize(items));
  order.resize(static_cast<size_t>(count));
  std::sort(order.begin(), order.end());
  std::vector<T> drawn;
  for (const int64_t i : order) drawn.push_back(std::move(items[static_cast<size_t>(i)]));
  items = std::move(drawn);
}

// The ids of records, empty where a text has no tokens; null where none has text.
Samples encode_all(std::vector<Record> records, const Tokenizer* tokenizer, bool adds_special) {
  Samples samples(records.size());
  std::vector<std::optional<Problem>> found(records.size());
  parallel_for(std::ssize(records), [&](int64_t i) {
    const auto index = static_cast<size_t>(i);
    Record& record = records[index];
    const bool is_plain = record.ids.empty() && record.messages.empty();
    try {
      samples[index] = record.ids.empty() ? tokenizer->encode(record.text) : std::move(record.ids);
      if (adds_special && is_plain && !samples[index].empty())
        samples[index] = tokenizer->add_special(std::move(samples[index]));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kData) throw;
      found[index] = error.problems().front();
      found[index]->where = record.where;
    }
  });
  Problems problems;
  for (std::optional<Problem>& problem : found)
    if (problem) problems.add(std::move(*problem));
  problems.throw_if_any(ErrorCode::kData);
  return samples;
}

// Cuts of `length` tokens; the last may be shorter.
Samples cut(const std::vector<int32_t>& ids, int64_t length) {
  Samples cuts;
  for (auto begin = ids.begin(); begin != ids.end();) {
    const auto end = begin + std::min<int64_t>(length, ids.end() - begin);
    cuts.emplace_back(begin, end);
    begin = end;
  }
  if (!cuts.empty() && cuts.back().size() < 2 && length > 1) cuts.pop_back();
  return cuts;
}

// "1 text", "2 texts"
std::string counted(int64_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

bool has_turns(const Record& record) {
  return !record.messages.empty() || !record.not_text.empty();
}

bool has_chat_format(const DatasetOptions& options, const fs::path& model_directory) {
  if (!options.chat_format.empty()) return true;
  try {
    return ChatFormat::of_model(model_directory).has_value();
  } catch (const Error&) {  // a template that laos does not know
    return false;
  }
}

// Gives conversations their text. Those of more than text are left out, and those that a format in
// which user and assistant take turns cannot hold.
void write_conversations(std::vector<Record>& records, const fs::path& file,
                         const fs::path& model_directory, const DatasetOptions& options,
                         const Tokenizer& tokenizer, std::vector<std::string>& warnings) {
  if (std::none_of(records.begin(), records.end(), has_turns)) return;
  const ChosenChat chosen =
      choose_chat_format(options.chat_format, model_directory, tokenizer, /*assume=*/true);
  if (!chosen.warning.empty()) warnings.push_back(chosen.warning);
  Problem first;
  int64_t num_left_out = 0;
  std::erase_if(records, [&](Record& record) {
    if (!has_turns(record)) return false;
    try {
      if (!record.not_text.empty())
        throw Error(
            ErrorCode::kData,
            {.what = record.not_text, .where = record.where, .fix = "use conversations of text"});
      record.text = chosen.format.text(record.messages);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kData) throw;
      if (num_left_out++ == 0) first = error.problems().front();
      if (num_left_out == 1) first.where = record.where;
      return true;
    }
    return false;
  });
  if (num_left_out == 0) return;
  if (records.empty()) throw Error(ErrorCode::kData, std::move(first));
  warnings.push_back(file.string() + ": " + counted(num_left_out, "conversation") +
                     " left out, since " + first.what + " (" + first.where + ")");
}

}  // namespace

fs::path find_dataset(const std::string& dataset, const fs::path& recipe_directory,
                      const std::vector<fs::path>& calib_directories) {
  if (data_source_of(dataset).is_stdin()) return dataset;
  std::vector<fs::path> places = {dataset};
  if (!fs::path(dataset).is_absolute()) {
    if (!recipe_directory.empty()) places.push_back(recipe_directory / dataset);
    for (const fs::path& directory : calib_directories) places.push_back(directory / dataset);
  }
  std::string tried;
  for (const fs::path& place : places) {
    if (is_dataset_file(place)) return place;
    tried += (tried.empty() ? "" : ", ") + place.string();
  }
  std::error_code ignored;
  const bool is_directory = fs::is_directory(dataset, ignored);
  throw Error(ErrorCode::kData,
              {.what = "dataset \"" + dataset +
                       (is_directory ? "\" is a directory, and one file is read" : "\" not found"),
               .where = "tried " + tried,
               .fix = "give its path, or put it in one of these places"});
}

fs::path default_dataset(const std::vector<fs::path>& calib_directories) {
  for (const fs::path& directory : calib_directories)
    if (is_dataset_file(directory / "default.jsonl")) return directory / "default.jsonl";
  throw Error(ErrorCode::kData,
              {.what = "laos's own calib/default.jsonl is not installed, and "
                       "neither the recipe nor --dataset names other data",
               .where = "calibration data",
               .fix = "give a file of your own with --dataset, or set LAOS_DATA_DIR to "
                      "the directory that holds calib"});
}

Dataset load_dataset(const fs::path& file, const fs::path& model_directory,
                     const DatasetOptions& options, const Tokenizer* tokenizer) {
  Records records = read_records(file, RecordPart::kAll);
  Dataset dataset;
  if (options.own_chat_format_only && !has_chat_format(options, model_directory)) {
    const auto num_left_out = static_cast<int64_t>(std::erase_if(records.list, has_turns));
    if (num_left_out > 0)
      dataset.warnings.push_back(file.string() + ": " + counted(num_left_out, "conversation") +
                                 " left out, since the model has no chat template that laos "
                                 "knows; --chat-format names the format to write them in");
  }
  const bool cuts_text = records.is_running_text && options.seq_len > 0;
  dataset.is_running_text = records.is_running_text && !cuts_text;
  if (!cuts_text) draw(records.list, options.max_samples, options.seed);
  std::optional<Tokenizer> own;
  const bool has_text = std::any_of(records.list.begin(), records.list.end(),
                                    [](const Record& record) { return record.ids.empty(); });
  if (has_text && tokenizer == nullptr)
    tokenizer = &own.emplace(Tokenizer::load(model_directory, options.bos));
  if (has_text)
    write_conversations(records.list, file, model_directory, options, *tokenizer, dataset.warnings);
  dataset.samples = encode_all(std::move(records.list), tokenizer, !cuts_text);

  if (cuts_text && !dataset.samples.empty()) {
    const auto begun = std::ssize(tokenizer->ids_before());
    dataset.samples = cut(dataset.samples.front(), std::max<int64_t>(options.seq_len - begun, 1));
    for (std::vector<int32_t>& ids : dataset.samples) ids = tokenizer->begin(std::move(ids));
    draw(dataset.samples, options.max_samples, options.seed);
  }
  const auto left = std::remove_if(dataset.samples.begin(), dataset.samples.end(),
                                   [](const std::vector<int32_t>& ids) { return ids.empty(); });
  const int64_t num_empty = records.num_empty + (dataset.samples.end() - left);
  dataset.samples.erase(left, dataset.samples.end());
  int64_t num_long = 0;
  if (options.seq_len > 0)
    for (std::vector<int32_t>& ids : dataset.samples) {
      if (std::ssize(ids) <= options.seq_len) continue;
      ++num_long;
      ids.resize(static_cast<size_t>(options.seq_len));
    }
  if (num_empty > 0)
    dataset.warnings.push_back(file.string() + ": " + counted(num_empty, "empty text") +
                               " left out");
  if (num_long > 0)
    dataset.warnings.push_back(file.string() + ": " + counted(num_long, "sample") +
                               " of more than " + std::to_string(options.seq_len) +
                               " tokens cut there");
  if (dataset.samples.empty())
    throw Error(ErrorCode::kData, {.what = "there are no samples with text in them",
                                   .where = file.string(),
                                   .fix = "use a file with text or token ids in it"});
  return dataset;
}

}  // namespace laos::hf
