// quantization_config of config.json, which says how a checkpoint is quantized
// in every format but AscendV1.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace laos::hf {

inline constexpr const char* kQuantizationConfig = "quantization_config";

// A key of a config.json that stands for one which is not there yet, see
// save::unfinished_config.
inline constexpr const char* kUnfinished = "laos_unfinished";

// Of the config.json in `directory`. Throws Error: kIo, kFormat, also where
// there is none.
nlohmann::ordered_json read_quantization_config(const std::filesystem::path& directory);
// Its quant_method; "" where nothing says one. Never throws.
std::string quant_method_of(const std::filesystem::path& directory);
// Whether config.json only stands for one that is not there yet. Never throws.
bool is_unfinished(const std::filesystem::path& directory);

}  // namespace laos::hf
