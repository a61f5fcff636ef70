#include "quant/scheme.h"

#include <array>

namespace laos::quant {
namespace {

struct LabelledPair {
  int weight_bits;
  int act_bits;
  bool is_static;      // activations
  bool allows_groups;  // more than one scale an output row
  const char* label;
};

constexpr std::array<LabelledPair, 5> kLabelledPairs = {{
    {.weight_bits = 4,
     .act_bits = 4,
     .is_static = false,
     .allows_groups = true,
     .label = "W4A4_DYNAMIC"},
    {.weight_bits = 8,
     .act_bits = 8,
     .is_static = false,
     .allows_groups = true,
     .label = "W8A8_DYNAMIC"},
    {.weight_bits = 4,
     .act_bits = 8,
     .is_static = false,
     .allows_groups = false,
     .label = "W4A8_DYNAMIC"},
    {.weight_bits = 8, .act_bits = 16, .is_static = false, .allows_groups = true, .label = "W8A16"},
    {.weight_bits = 8, .act_bits = 8, .is_static = true, .allows_groups = false, .label = "W8A8"},
}};

}  // namespace

std::optional<std::string> label_of(const LinearScheme& scheme) {
  if (scheme.weight.group_size < 0) return std::nullopt;
  for (const LabelledPair& pair : kLabelledPairs) {
    if (pair.weight_bits == scheme.weight.bits && pair.act_bits == scheme.act.bits &&
        pair.is_static == scheme.act.is_static &&
        (pair.allows_groups || scheme.weight.group_size == 0)) {
      return pair.label;
    }
  }
  return std::nullopt;
}

}  // namespace laos::quant
