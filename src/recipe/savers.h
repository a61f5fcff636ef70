// The savers of a recipe: what is written, and how.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "recipe/schema.h"
#include "save/options.h"

namespace laos::recipe {

// Whether the format has a saver of this name, run by laos or not.
bool is_saver(const std::string& type);

std::vector<const MapSchema*> saver_schemas();

// An item of spec.save; nullopt when it is no saver that laos runs, and reported.
std::optional<save::SaverOptions> read_saver(Report& report, const Value& value);

}  // namespace laos::recipe
