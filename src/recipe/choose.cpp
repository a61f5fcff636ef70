#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <optional>
#include <set>
#include <system_error>
#include <tuple>

#include "core/error.h"
#include "recipe/recipe.h"
#include "recipe/yaml_scalar.h"

namespace laos::recipe {
namespace {

// What the label of a recipe must say for a quant type.
struct QuantType {
  const char* name;
  int w_bit;
  int a_bit;
  bool is_sparse = false;
  bool kv_cache = false;
  int fa_bit = 0;  // 0: attention itself is not quantized
};

constexpr std::array<QuantType, 12> kQuantTypes = {{
    {.name = "w4a4", .w_bit = 4, .a_bit = 4},
    {.name = "w4a8", .w_bit = 4, .a_bit = 8},
    {.name = "w4a4c8", .w_bit = 4, .a_bit = 4, .kv_cache = true},
    {.name = "w4a4f8", .w_bit = 4, .a_bit = 4, .fa_bit = 8},
    {.name = "w4a8c8", .w_bit = 4, .a_bit = 8, .kv_cache = true},
    {.name = "w8a16", .w_bit = 8, .a_bit = 16},
    {.name = "w8a8", .w_bit = 8, .a_bit = 8},
    {.name = "w8a8s", .w_bit = 8, .a_bit = 8, .is_sparse = true},
    {.name = "w8a8c8", .w_bit = 8, .a_bit = 8, .kv_cache = true},
    {.name = "w8a8f8", .w_bit = 8, .a_bit = 8, .fa_bit = 8},
    {.name = "w4a4f4", .w_bit = 4, .a_bit = 4, .fa_bit = 4},
    {.name = "w16a16s", .w_bit = 16, .a_bit = 16, .is_sparse = true},
}};

std::string join(const std::set<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

const QuantType& quant_type_named(const std::string& name) {
  std::vector<std::string> names;
  for (const QuantType& type : kQuantTypes) {
    if (type.name == name) return type;
    names.push_back(type.name);
  }
  std::string list;
  for (const std::string& known : names) list += (list.empty() ? "" : ", ") + known;
  const std::string nearest = nearest_name(name, names);
  throw Error(
      ErrorCode::kUsage,
      {.what = "unknown quant type `" + name + "`",
       .where = "--quant_type",
       .fix = (nearest.empty() ? "" : "did you mean `" + nearest + "`? ") + "known: " + list});
}

// The folder of recipes that are for no model in particular . The published tool asks on standard
// input before it takes one; laos names it.
constexpr const char* kDefaultFolder = "default";

using Label = std::map<std::string, std::string>;

int label_number(const Label& label, const std::string& key) {
  const auto found = label.find(key);
  if (found == label.end()) return 0;
  const int64_t number = integer_from_text(found->second).value_or(0);
  return number >= 0 && number <= 64 ? static_cast<int>(number) : 0;
}

bool label_flag(const Label& label, const std::string& key) {
  const auto found = label.find(key);
  return found != label.end() && bool_from_text(found->second).value_or(false);
}

bool says(const Label& label, const QuantType& type) {
  const int fa_bit = label.contains("fa_bit")        ? label_number(label, "fa_bit")
                     : label_flag(label, "fa_quant") ? 8
                                                     : 0;
  return label_number(label, "w_bit") == type.w_bit && label_number(label, "a_bit") == type.a_bit &&
         label_flag(label, "is_sparse") == type.is_sparse &&
         label_flag(label, "kv_cache") == type.kv_cache && fa_bit == type.fa_bit;
}

// The *.yaml and *.yml files of a directory, and of the folders in it when `depth` is above 0.
void append_yaml_files(const std::filesystem::path& directory, int depth,
                       std::vector<std::filesystem::path>& files) {
  std::error_code error;
  std::filesystem::directory_iterator entry(directory, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    std::error_code status_error;
    const std::filesystem::path extension = entry->path().extension();
    if ((extension == ".yaml" || extension == ".yml") && entry->is_regular_file(status_error))
      files.push_back(entry->path());
    else if (depth > 0 && entry->is_directory(status_error))
      append_yaml_files(entry->path(), depth - 1, files);
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw Error(ErrorCode::kIo, {.what = "cannot list recipes: " + error.message(),
                                 .where = directory.string(),
                                 .fix = "make the directory readable"});
  }
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

enum class Fit { kNo, kOtherTags, kYes };

Fit fit_of(const Metadata& metadata, const std::string& model_type,
           const std::vector<std::string>& tags) {
  const std::vector<std::string>& types = metadata.verified_model_types;
  if (!types.empty())
    return std::find(types.begin(), types.end(), model_type) != types.end() ? Fit::kYes : Fit::kNo;
  const auto scenarios = metadata.verified_tags.find(model_type);
  if (scenarios == metadata.verified_tags.end()) return Fit::kNo;
  if (tags.empty()) return Fit::kYes;
  for (const std::vector<std::string>& scenario : scenarios->second) {
    std::set<std::string> known;
    for (const std::string& tag : scenario) known.insert(lower(tag));
    if (std::all_of(tags.begin(), tags.end(),
                    [&](const std::string& tag) { return known.contains(lower(tag)); }))
      return Fit::kYes;
  }
  return Fit::kOtherTags;
}

}  // namespace

std::vector<RecipeEntry> list_recipes(const std::vector<std::filesystem::path>& directories) {
  std::vector<RecipeEntry> recipes;
  std::vector<Problem> problems;
  for (const std::filesystem::path& directory : directories) {
    std::vector<std::filesystem::path> files;
    append_yaml_files(directory, /*depth=*/1, files);
    std::sort(files.begin(), files.end());  // the file system's order is no order
    std::vector<RecipeEntry> here;
    for (const std::filesystem::path& file : files) {
      try {
        here.push_back(load_entry(file));
      } catch (const Error& error) {
        problems.insert(problems.end(), error.problems().begin(), error.problems().end());
      }
    }
    std::stable_sort(here.begin(), here.end(), [](const RecipeEntry& a, const RecipeEntry& b) {
      return std::tuple(-a.metadata.score, a.metadata.config_id) <
             std::tuple(-b.metadata.score, b.metadata.config_id);
    });
    std::move(here.begin(), here.end(), std::back_inserter(recipes));
  }
  if (!problems.empty()) throw Error(ErrorCode::kRecipe, std::move(problems));
  return recipes;
}

std::string profile_of(const Metadata& metadata) {
  const auto found = metadata.label.find("profile");
  return found == metadata.label.end() ? "" : found->second;
}

std::vector<std::string> quant_types_of(const Metadata& metadata) {
  std::vector<std::string> types;
  for (const QuantType& type : kQuantTypes)
    if (says(metadata.label, type)) types.emplace_back(type.name);
  return types;
}

std::filesystem::path choose_recipe(const std::vector<std::filesystem::path>& directories,
                                    const RecipeQuery& query) {
  const QuantType& wanted = quant_type_named(query.quant_type);
  const std::vector<RecipeEntry> recipes = list_recipes(directories);
  std::string others;  // files of this quant type that are for something else
  for (const RecipeEntry& recipe : recipes) {
    const Metadata& metadata = recipe.metadata;
    if (!says(metadata.label, wanted) || profile_of(metadata) != query.profile) continue;
    const Fit fit = fit_of(metadata, query.model_type, query.tags);
    if (fit == Fit::kYes) return recipe.path;
    if (fit == Fit::kOtherTags)
      others += recipe.path.string() + " is for other tags: leave out --tag to take it; ";
    else if (recipe.path.parent_path().filename() == kDefaultFolder)
      others += recipe.path.string() + " is for any model: give it as --config_path to take it; ";
  }

  std::map<std::string, std::set<std::string>> types_of;  // quant types by model type
  for (const auto& [path, metadata] : recipes) {
    for (std::string type : quant_types_of(metadata)) {
      if (!profile_of(metadata).empty()) type += " --" + profile_of(metadata);
      for (const std::string& model : metadata.verified_model_types) types_of[model].insert(type);
      for (const auto& [model, unused] : metadata.verified_tags) types_of[model].insert(type);
    }
  }
  std::vector<std::string> models;
  std::string existing;
  for (const auto& [model, types] : types_of) {
    models.push_back(model);
    existing += (existing.empty() ? "" : "; ") + model + " (" + join(types) + ")";
  }
  std::string searched;
  for (const std::filesystem::path& directory : directories) {
    searched += (searched.empty() ? "" : ", ") + directory.string();
  }
  const std::string nearest =
      types_of.contains(query.model_type) ? "" : nearest_name(query.model_type, models);
  std::string fix = (nearest.empty() ? "" : "did you mean `" + nearest + "`? ") + others;
  fix += existing.empty() ? "there are no recipes in these directories"
                          : "there are recipes for: " + existing;
  throw Error(ErrorCode::kUsage, {.what = "no recipe for model type `" + query.model_type +
                                          "` and quant type `" + query.quant_type + "`" +
                                          (query.profile.empty() ? "" : " --" + query.profile),
                                  .where = searched,
                                  .fix = fix + "; or name a recipe file with --config_path"});
}

}  // namespace laos::recipe
