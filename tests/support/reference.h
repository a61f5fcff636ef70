// Checkpoints in the form that the known implementation writes.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace laos::test {

// Writes tests/golden/qwen3-tiny-reference/`name` as a whole AscendV1 directory, with zeros for
// weights and 0.75 for every scale.
inline void write_reference(const std::string& name, const std::filesystem::path& directory) {
  namespace fs = std::filesystem;
  constexpr uintmax_t kFileBytes = 10'682'000;
  const fs::path root = LAOS_SOURCE_DIR, golden = root / "tests/golden/qwen3-tiny-reference" / name;
  fs::create_directories(directory);
  for (const char* file : {"config.json", "quant_model_description.json",
                           "quant_model_weights.safetensors.index.json"})
    fs::copy_file(golden / file, directory / file);
  for (const char* file : {"generation_config.json", "merges.txt", "tokenizer.json",
                           "tokenizer_config.json", "vocab.json"})
    fs::copy_file(root / "models/qwen3-tiny" / file, directory / file);
  const fs::path weights = directory / "quant_model_weights-00001-of-00001.safetensors";
  fs::copy_file(golden / "header.safetensors", weights);
  fs::resize_file(weights, kFileBytes);

  std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
  uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  std::string header(header_bytes, '\0');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const auto entries = nlohmann::json::parse(header);
  for (const auto& [tensor, entry] : entries.items()) {
    if (!tensor.ends_with("weight_scale")) continue;
    const auto begin = entry["data_offsets"][0].get<size_t>(),
               end = entry["data_offsets"][1].get<size_t>();
    file.seekp(static_cast<std::streamoff>(sizeof header_bytes + header_bytes + begin));
    const std::string scale = entry["dtype"] == "F32" ? std::string("\0\0\x40\x3f", 4) : "\x40\x3f";
    for (size_t at = begin; at < end; at += scale.size()) file << scale;
  }
}

}  // namespace laos::test
