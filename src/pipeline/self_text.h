// Calibration text that a float model writes itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "pipeline/run.h"

namespace laos::pipeline {

struct SelfTextOptions {
  int64_t nsamples = 128;
  int64_t seq_len = 512;  // tokens of a sample at most, its opening included
  double temperature = 1;
  uint32_t seed = 42;
  int64_t batch = 8;        // samples that are written at a time; their text does not depend on it
  std::string chat_format;  // in place of the checkpoint's own
  bool is_base = false;     // no questions and answers, though the checkpoint has a chat format
};

struct SelfText {
  std::vector<std::string> lines;  // JSON objects: input_ids, and the same as text
  int64_t num_tokens = 0;
  std::string chat_format;  // "": running text
  std::vector<std::string> warnings;
};

// Samples of the float checkpoint's own text, drawn at `temperature`. With a chat format (the
// checkpoint's own, or the one that is named) each is a conversation: the model writes a user's
// turn into an empty one, and then its answer. Without one a sample begins with a random token of
// the vocabulary, goes on with the likeliest ones for a little, and is drawn from there. The same
// options give the same text, on any number of threads. Throws Error: kUsage for a checkpoint that
// is quantized, kResource when memory is short, kData when the model writes nothing, kStopped.
SelfText write_self_text(const std::filesystem::path& model_path, const SelfTextOptions& options,
                         Progress& progress);

}  // namespace laos::pipeline
