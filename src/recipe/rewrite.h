// A recipe with other strategies in its quantizers.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
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

// The YAML of `recipe` with savers of another type.
std::string with_saver(const Recipe& recipe, const std::string& type);

// Patterns that match "model.layers.I." + module for exactly the `layers`: as
// "model.layers.{{0..3},7}.mlp.down_proj". None for no layers.
std::vector<std::string> layer_patterns(const std::set<int64_t>& layers, const std::string& module);

}  // namespace laos::recipe
