// What quantizers have in common: patterns, and which linears get which scheme.
#pragma once

#include <vector>

#include "recipe/processors.h"
#include "recipe/recipe.h"
#include "recipe/schema.h"

namespace laos::recipe {

// Which pairs of weight and activation are accepted: those of a quantizer with `strategies`, or
// those of linear_quant.
enum class Quantizer { kStrategies, kLinear };

std::vector<const MapSchema*> strategy_schemas();

std::vector<Pattern> read_patterns(Reading& reading, const Value& value);
// `include` of a mapping, `*` when it has none.
std::vector<Pattern> read_patterns_or_all(Reading& reading, const MapReader& reader,
                                          const Value& value);

// `value` is the mapping that `reader` reads: it has qconfig, include and exclude.
Strategy read_strategy(Reading& reading, const MapReader& reader, const Value& value,
                       Quantizer quantizer);
// The list at `strategies`, which must be there and not be empty.
std::vector<Strategy> read_strategies(Reading& reading, const MapReader& reader);
// `train` and `solve`: weight dtypes, of which at least one is a strategy's.
void read_dtypes(Report& report, const Value& value, const std::vector<Strategy>& strategies,
                 bool& int4, bool& int8);

}  // namespace laos::recipe
