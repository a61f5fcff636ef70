// `laos tokenize`: token ids of texts, to compare with other tokenizers.
#pragma once

#include <CLI/App.hpp>

namespace laos::cli {

// Adds the subcommand `tokenize`; its callback does the work. It reads JSON lines with `text` from
// standard input or --input, skips blank ones, and writes a JSON line {"ids": [...], "decoded":
// "..."} for each. Throws what Tokenizer throws, Error(kData) naming the line that is malformed,
// and Error(kIo) when the output cannot be written.
void add_tokenize_command(CLI::App& app);

}  // namespace laos::cli
