#include "cli/recipes.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "cli/data_path.h"
#include "core/words.h"
#include "recipe/recipe.h"

namespace laos::cli {
namespace {

struct Row {
  std::string model_type, quant_types, config_id, path;
};

std::vector<std::string> model_types_of(const recipe::Metadata& metadata) {
  std::vector<std::string> types = metadata.verified_model_types;
  if (types.empty())
    for (const auto& [type, unused] : metadata.verified_tags) types.push_back(type);
  return types;
}

void print_table(const std::vector<recipe::RecipeEntry>& recipes) {
  std::vector<Row> rows = {{"model type", "quant type", "recipe", "file"}};
  for (const auto& [path, metadata] : recipes) {
    std::vector<std::string> types = model_types_of(metadata);
    if (types.empty()) types = {"-"};
    const std::vector<std::string> quant_types = recipe::quant_types_of(metadata);
    for (const std::string& type : types)
      rows.push_back({type,
                      (quant_types.empty() ? "-" : listed(quant_types)) +
                          (profile_of(metadata).empty() ? "" : " --" + profile_of(metadata)),
                      metadata.config_id, path.string()});
  }
  size_t models = 0, types = 0, ids = 0;
  for (const Row& row : rows) {
    models = std::max(models, row.model_type.size());
    types = std::max(types, row.quant_types.size());
    ids = std::max(ids, row.config_id.size());
  }
  for (const Row& row : rows)
    std::printf("%-*s  %-*s  %-*s  %s\n", static_cast<int>(models), row.model_type.c_str(),
                static_cast<int>(types), row.quant_types.c_str(), static_cast<int>(ids),
                row.config_id.c_str(), row.path.c_str());
}

void print_json(const std::vector<recipe::RecipeEntry>& recipes) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const auto& [path, metadata] : recipes)
    list.push_back({{"config_id", metadata.config_id},
                    {"score", metadata.score},
                    {"model_types", model_types_of(metadata)},
                    {"quant_types", recipe::quant_types_of(metadata)},
                    {"profile", recipe::profile_of(metadata)},
                    {"path", path.string()}});
  std::printf("%s\n", list.dump(2).c_str());
}

}  // namespace

void add_recipes_command(CLI::App& app) {
  struct Flags {
    std::string directory;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("recipes", "List the recipes that quant --quant-type chooses from");
  command->add_option("--recipes", flags->directory,
                      "directory of recipes that are asked before laos's own");
  command->add_flag("--json", flags->json, "print a JSON list");
  command->callback([flags] {
    const std::vector<recipe::RecipeEntry> recipes =
        recipe::list_recipes(recipe_directories(flags->directory));
    if (flags->json)
      print_json(recipes);
    else
      print_table(recipes);
  });
}

}  // namespace laos::cli
