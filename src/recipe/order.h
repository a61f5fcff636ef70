// Rules on several processors of a recipe.
#pragma once

#include "recipe/recipe.h"
#include "recipe/schema.h"

namespace laos::recipe {

// Reports what the single entries cannot show: what stands twice, or in an order that would not
// work. `spec` is the mapping that the recipe was read from. `has_unread_fit`: spec.prior may have
// a stage 1 that could not be read.
void check_order(Report& report, const Value& spec, const Recipe& recipe, bool has_unread_fit);

}  // namespace laos::recipe
