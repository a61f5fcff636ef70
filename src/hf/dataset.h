// Calibration and evaluation texts (spec section 4).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hf/tokenizer.h"

namespace laos::hf {

// Where a recipe's `dataset` is: the path itself if absolute or existing, else beside the recipe
// (`recipe_directory`, may be empty), else in one of `calib_directories`. Throws Error(kData)
// listing every place that was tried.
std::filesystem::path find_dataset(const std::string& dataset,
                                   const std::filesystem::path& recipe_directory,
                                   const std::vector<std::filesystem::path>& calib_directories);

// The samples of a dataset file, in file order, as token ids: one vector a sample.
// .jsonl: each line an object, text in `inputs_pretokenized`; of an object without that field the
// line itself, less its line ending, is the text; blank lines are skipped. .json: a list of
// strings. .txt: tokenized whole and cut into `seq_len` tokens, the last shorter cut kept when it
// has at least 2. No truncation, no special tokens. Uses the threads of parallel_for. Throws
// Error(kData) naming file and line or item: malformed JSON, wrong types, text that is not UTF-8,
// a sample of no tokens (all of these at once), no samples, another suffix, more than 1 GiB or
// 1,000,000 texts.
std::vector<std::vector<int32_t>> load_samples(const std::filesystem::path& file,
                                               const Tokenizer& tokenizer, int64_t seq_len);

// Texts to evaluate on, as token ids.
struct Documents {
  std::vector<std::vector<int32_t>> ids;  // one vector a document, none empty
  bool is_running_text = false;           // a text file: one document of arbitrary length
};

// .jsonl: a document a line, of its `ids` (a list of token ids, as `laos tokenize` writes) or else
// of its text as load_samples reads it. .json: a list of strings or of lists of token ids, a
// document each, or a list of token ids, one document. Any other suffix: UTF-8 text, tokenized
// whole. The tokenizer of `model_directory` is loaded when there is text. Throws as load_samples
// and Tokenizer::load; ids beyond the vocabulary are for the reader of embeddings to refuse.
Documents load_documents(const std::filesystem::path& file,
                         const std::filesystem::path& model_directory);

}  // namespace laos::hf
