// Qwen3 checkpoints of random weights, for tests and benchmarks: what matters is their shapes,
// their scale and that every file a real checkpoint has is there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hf/config.h"

namespace laos::hf {

struct SyntheticModel {
  Config config;
  uint64_t seed = 1;
  bool transformers5 = false;   // config.json as transformers 5 writes it, else as 4 does
  int64_t max_shard_bytes = 0;  // 0: one file; else shards and an index (see io::plan_shards)
  // One file whose weights are a hole: all zero, and no room on the disk. Enough to plan with.
  bool is_hollow = false;
};

// Names of the shapes that qwen3_config knows: "tiny", "0.6b", "8b", "14b", "32b" and, with
// experts, "tiny-moe", "30b-a3b", "235b-a22b".
std::vector<std::string> qwen3_shapes();

// The config of a Qwen3 model, BF16, rope_theta 1e6. `num_layers` and `vocab_size` 0: as published.
// "tiny" (hidden_size 64, intermediate_size 128, 4 heads of 32, 2 KV heads, 2 layers, vocabulary
// 320, untied) is not published; "tiny-moe" is the same with 8 experts of 32, two a token. Any
// vocabulary must have at least the 257 tokens of the synthetic tokenizer.
Config qwen3_config(const std::string& shape, int64_t num_layers = 0, int64_t vocab_size = 0);

// Writes config.json, model*.safetensors, tokenizer.json (one token a byte, no merges,
// <|endoftext|>), tokenizer_config.json and generation_config.json into `directory`, which is
// created. Weights are nearly normal with deviation 0.02; a few channels of the residual stream are
// ten times larger; norm gains lie between 0.5 and 1.5. Equal arguments give equal bytes, whatever
// the number of threads. Memory stays small.
void write_synthetic(const SyntheticModel& model, const std::filesystem::path& directory);

}  // namespace laos::hf
