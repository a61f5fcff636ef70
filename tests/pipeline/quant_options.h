// Options of a run in a test's own directory.
#pragma once

#include <filesystem>
#include <string>

#include "pipeline/plan.h"

namespace laos::pipeline {

// Of directory/model by directory/recipe.yaml into directory/save_path.
inline QuantOptions quant_options(const std::filesystem::path& directory,
                                  const std::string& save_path) {
  QuantOptions options;
  options.model_path = directory / "model";
  options.save_path = directory / save_path;
  options.recipe_path = directory / "recipe.yaml";
  options.model_type = "tiny";
  return options;
}

}  // namespace laos::pipeline
