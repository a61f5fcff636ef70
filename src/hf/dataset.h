// Calibration and evaluation texts as token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hf/tokenizer.h"

namespace laos::hf {

// Where a recipe's `dataset` is: the path itself if absolute or existing, else beside the recipe
// (`recipe_directory`, may be empty), else in one of `calib_directories`. `-` and `FILE:KEY` are as
// in hf::DataSource. Throws Error(kData) listing every place that was tried.
std::filesystem::path find_dataset(const std::string& dataset,
                                   const std::filesystem::path& recipe_directory,
                                   const std::vector<std::filesystem::path>& calib_directories);

// The set that comes with laos, in one of `calib_directories`; for whom nothing else is named.
// Throws Error(kData) when it is not installed.
std::filesystem::path default_dataset(const std::vector<std::filesystem::path>& calib_directories);

// What is taken of a file.
struct DatasetOptions {
  // Tokens of a sample at most: longer ones are cut there, and a text file is cut into samples of
  // so many, of which the last is kept when it has at least 2. 0: nothing is cut.
  int64_t seq_len = 0;
  int64_t max_samples = 0;  // of more samples so many are drawn, in file order; 0: all are taken
  uint32_t seed = 42;       // of the draw
  std::string chat_format = {};  // of conversations, see choose_chat_format; "": the model's own
  // Conversations are left out, and counted, where the model has no chat format of its own that
  // laos knows; else one is assumed.
  bool own_chat_format_only = false;
  Bos bos = Bos::kAsModel;  // of the tokenizer, where load_dataset loads it
};

struct Dataset {
  std::vector<std::vector<int32_t>> samples;  // in file order, none empty
  bool is_running_text = false;               // a text file, of any length, and not cut
  std::vector<std::string> warnings;          // what was left out, cut or assumed
};

// The records of a file (hf::read_records): texts between the special tokens that the model expects
// around them (Tokenizer::add_special; samples that a text file is cut into begin with them, too),
// conversations in a chat format and token ids with none added; conversations that the format cannot
// hold are left out. `tokenizer` is that of `model_directory`, null to load it where there is text;
// ids beyond the vocabulary are for the reader of embeddings to refuse. Uses the threads of
// parallel_for. Throws Error as read_records and Tokenizer::load, and Error(kData) when no samples
// are left.
Dataset load_dataset(const std::filesystem::path& file,
                     const std::filesystem::path& model_directory,
                     const DatasetOptions& options = {}, const Tokenizer* tokenizer = nullptr);

}  // namespace laos::hf
