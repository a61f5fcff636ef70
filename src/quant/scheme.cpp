#include "quant/scheme.h"

namespace laos::quant {

std::optional<std::string> label_of(const LinearScheme& scheme) {
  if (scheme.weight.group_size < 0) return std::nullopt;
  const auto activations = scheme.act.is_static   ? scheme::Activations::kStatic
                           : scheme.act.bits < 16 ? scheme::Activations::kDynamic
                                                  : scheme::Activations::kFloat;
  for (const scheme::Scheme& row : scheme::schemes())
    if (!row.is_float() && row.weight_bits == scheme.weight.bits &&
        row.act_bits == scheme.act.bits && row.activations == activations &&
        row.transforms == (scheme.act.pair_blocks > 0) &&
        (row.allows_groups || scheme.weight.group_size == 0))
      return std::string(row.label);
  return std::nullopt;
}

}  // namespace laos::quant
