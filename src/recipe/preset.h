// Recipes that follow from a few choices instead of a file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "hf/config.h"

namespace laos::recipe {

// One scheme for the linears of the decoder layers.
struct Preset {
  std::string scheme;  // one of preset_schemes()
  // Inputs that share a scale of a weight, 0: all of them. nullopt: all, but for weights of 4 bits
  // beside float inputs the largest of 128, 64 and 32 that divides the inputs of every linear.
  std::optional<int64_t> group_size = {};
  std::string method = "";               // one of preset_methods(); "": the first
  std::optional<int64_t> iters = {};     // of autoround; nullopt: as many as LAOS publishes
  std::optional<bool> rotates = {};      // weights are rotated first; nullopt: where that is better
  std::vector<std::string> ignore = {};  // linears that stay float, as hf::NamePattern has them
  std::string saver_type = "";           // as "compressed_tensors_saver"
};

// "W4A16", "W8A8", ...: a name for each scheme of the table that a recipe can make, by its bits;
// "-static" follows where inputs have one range.
std::vector<std::string> preset_schemes();
std::vector<std::string> preset_methods();

// The YAML of a recipe for models like this; equal presets give equal text. Throws Error(kUsage),
// all problems at once, each at the flag of laos quant that is meant.
std::string preset_yaml(const Preset& preset, const hf::Config& config);

}  // namespace laos::recipe
