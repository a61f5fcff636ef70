// A recipe with other strategies in its quantizers.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "recipe/recipe.h"

namespace laos::recipe {

// Linears of one width: integers of so many bits, weights and activations.
struct NewStrategy {
  int weight_bits = 0;
  int act_bits = 0;
  std::vector<std::string> include;  // patterns; none of them matches a linear of another strategy
};

// The YAML of `recipe` where the strategies of the quantizer main.process[i] are by_processor[i]
// (which is empty for what is no quantizer; a quantizer without strategies is left out). All else
// that a strategy says of its tensors (scope, method, scale_dtype) stays as the quantizer says it
// of the same widths, or of its first strategy. linear_quant, which has one strategy, is repeated.
// `dataset`, when given, stands for the recipe's. Top-level keys that only hold anchors go.
std::string with_strategies(const Recipe& recipe,
                            const std::vector<std::vector<NewStrategy>>& by_processor,
                            const std::string& config_id,
                            const std::optional<std::string>& dataset = std::nullopt);

// The YAML of `recipe` with savers of these types instead of its own, each like its first.
std::string with_savers(const Recipe& recipe, const std::vector<std::string>& types);

// The YAML of `recipe` with these options of its flatquant; nullopt, and no tp, leave one as it is.
std::string with_flatquant(const Recipe& recipe, std::optional<bool> clip,
                           const std::vector<int64_t>& tp);

// The YAML of `recipe`, which has none, with a spec.kv_cache of int8.
std::string with_int8_cache(const Recipe& recipe);

// Patterns that match PREFIX.I.MODULE for exactly the `layers` I: as
// "model.layers.{{0..3},7}.mlp.down_proj" of the prefix "model.layers". None for no layers.
std::vector<std::string> layer_patterns(std::string_view prefix, const std::set<int64_t>& layers,
                                        std::string_view module);

}  // namespace laos::recipe
