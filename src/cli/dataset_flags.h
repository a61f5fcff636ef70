// Flags of calibration data.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "cli/bos_flags.h"
#include "cli/data_path.h"
#include "cli/flags.h"
#include "cli/job.h"
#include "core/error.h"
#include "core/words.h"
#include "hf/chat.h"
#include "hf/data_file.h"
#include "pipeline/plan.h"

namespace laos::cli {

inline constexpr const char* kDataFiles =
    ".jsonl, .json, .csv, .parquet or text, also as .gz; FILE:KEY names the key or column with the "
    "text; `-`: standard input";

// Standard input is that of the first rank alone. Throws Error(kUsage).
inline void require_readable_by_ranks(const std::string& name, const std::string& flag) {
  if (job().size() > 1 && hf::data_source_of(name).is_stdin())
    throw Error(ErrorCode::kUsage, {.what = "only the first rank has a standard input",
                                    .where = flag,
                                    .fix = "write the data to a file that all ranks can read"});
}

struct DatasetFlags {
  std::string dataset, chat_format;
  int64_t seq_len = 2048, nsamples = 0;
  BosFlags bos;

  // Throws Error(kUsage), see require_readable_by_ranks.
  void apply_to(pipeline::QuantOptions& options) const {
    require_readable_by_ranks(dataset, "--dataset");
    if (!dataset.empty()) options.dataset = dataset;
    options.calib_directories = data_directories("calib");
    options.calib_seq_len = seq_len;
    options.nsamples = nsamples;
    options.chat_format = chat_format;
    options.bos = bos();
  }
};

inline void add_chat_format(CLI::App& command, std::string& chat_format) {
  command
      .add_option(both_spellings("--chat-format"), chat_format,
                  "chat format of conversations instead of the checkpoint's own")
      ->check(CLI::IsMember(hf::ChatFormat::names()));
}

inline void add_dataset_options(CLI::App& command, DatasetFlags& flags) {
  command.add_option(
      "--dataset", flags.dataset,
      std::string("calibration data instead of the recipe's, or of laos's own set: ") + kDataFiles);
  CLI::Option* nsamples =
      command
          .add_option("--nsamples", flags.nsamples,
                      std::string("of more samples so many are drawn at random, those held back "
                                  "among them") +
                          (flags.nsamples == 0 ? " (default: all)" : ""))
          ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  if (flags.nsamples != 0) nsamples->capture_default_str();
  command
      .add_option("--seqlen," + both_spellings("--calib-seq-len"), flags.seq_len,
                  "tokens of a sample at most: longer ones are cut there, text files are cut into "
                  "such samples")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->capture_default_str();
  add_chat_format(command, flags.chat_format);
  add_bos_flags(command, flags.bos);
}

}  // namespace laos::cli
