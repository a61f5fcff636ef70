#include "hf/quantization_config.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "hf/config.h"
#include "hf/json_file.h"
#include "io/file.h"
#include "io/own_file.h"

namespace laos::hf {

namespace {

using ConfigJson = nlohmann::ordered_json;

ConfigJson read_config_json(const std::filesystem::path& path) {
  io::require_own_file(path);
  return parse_json<ConfigJson>(io::read_text(path, kMaxConfigBytes), path, kMaxConfigValues);
}

}  // namespace

ConfigJson read_quantization_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  ConfigJson config = read_config_json(path);
  const auto found = config.is_object() ? config.find(kQuantizationConfig) : config.end();
  if (found == config.end() || !found->is_object())
    throw Error(ErrorCode::kFormat, {.what = "there is no quantization_config",
                                     .where = path.string(),
                                     .fix = "quantize again"});
  return std::move(*found);
}

std::string quant_method_of(const std::filesystem::path& directory) {
  try {
    const ConfigJson section = read_quantization_config(directory);
    const auto method = section.find("quant_method");
    if (method != section.end() && method->is_string()) return method->get<std::string>();
  } catch (const Error&) {  // then it says nothing
  }
  return "";
}

bool is_unfinished(const std::filesystem::path& directory) {
  try {
    return read_config_json(directory / "config.json").contains(kUnfinished);
  } catch (const Error&) {
    return false;
  }
}

}  // namespace laos::hf
