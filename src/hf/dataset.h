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
// a sample of no tokens (all of these at once), no samples, another suffix, more than 4 GiB.
std::vector<std::vector<int32_t>> load_samples(const std::filesystem::path& file,
                                               const Tokenizer& tokenizer, int64_t seq_len);

// `text_file` tokenized whole and cut into non-overlapping windows of `seq_len` tokens from the
// start; the remainder is dropped. Throws Error(kData) when there is not one whole window, on text
// that is not UTF-8 and on more than 4 GiB.
std::vector<std::vector<int32_t>> token_windows(const std::filesystem::path& text_file,
                                                const Tokenizer& tokenizer, int64_t seq_len);

}  // namespace laos::hf
