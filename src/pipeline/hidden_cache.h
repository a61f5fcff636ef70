// What the baseline of evaluations computes, kept on disk, so that comparing many checkpoints runs
// it once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "eval/metrics.h"

namespace laos::pipeline {

// Where, and how much of it: files of this cache beyond `max_bytes` in all are removed, the longest
// unused first.
struct HiddenCacheOptions {
  std::filesystem::path directory;  // created when something is kept
  int64_t max_bytes = int64_t{4} << 30;
};

// $LAOS_CACHE_DIR, else $XDG_CACHE_HOME/laos, else $HOME/.cache/laos; empty when none is set.
std::filesystem::path default_cache_directory();

// The hidden states that lm_head reads wherever `windows` score a token, as eval::scored_hidden
// gives them, bit for bit, from which logits are one product away: hidden_size floats a token,
// where logits would be vocab_size. A file holds them with everything they depend on: the program,
// the instruction set, every file of the model directory by size, time of change and first MiB, the
// windows; and with a checksum. A file that depends on something else, is cut short or damaged
// counts as absent and is replaced.
class HiddenCache {
 public:
  explicit HiddenCache(HiddenCacheOptions options) : options_(std::move(options)) {}

  struct Result {
    eval::ScoredHidden hidden;
    bool found = false;        // it was there; else it was computed
    std::string problem = {};  // why it could not be kept, or what was wrong with the file
  };
  // `directory` is the model's. Throws Error as eval::scored_hidden. A cache that cannot be read or
  // written is no error.
  Result scored_hidden(const eval::EvalModel& model, const std::filesystem::path& directory,
                       const eval::Windows& windows,
                       const eval::LayersDone& progress = nullptr) const;

 private:
  HiddenCacheOptions options_;
};

}  // namespace laos::pipeline
