#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <limits>
#include <optional>
#include <set>
#include <system_error>
#include <tuple>

#include "core/error.h"
#include "core/words.h"
#include "io/file.h"
#include "recipe/recipe.h"
#include "recipe/schema.h"
#include "recipe/yaml_document.h"
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

const QuantType& quant_type_named(const std::string& name) {
  std::vector<std::string> names;
  for (const QuantType& type : kQuantTypes) {
    if (type.name == name) return type;
    names.emplace_back(type.name);
  }
  const std::string nearest = nearest_name(name, names);
  throw Error(ErrorCode::kUsage,
              {.what = "unknown quant type `" + name + "`",
               .where = "--quant-type",
               .fix = (nearest.empty() ? "" : "did you mean `" + nearest + "`? ") +
                      "known: " + listed(names)});
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

bool same_but_for_case(const std::string& a, const std::string& b) { return lower(a) == lower(b); }

Fit fit_of(const Metadata& metadata, const std::string& model_type,
           const std::vector<std::string>& tags) {
  const auto is_it = [&](const std::string& type) { return same_but_for_case(type, model_type); };
  const std::vector<std::string>& types = metadata.verified_model_types;
  if (!types.empty()) return std::ranges::any_of(types, is_it) ? Fit::kYes : Fit::kNo;
  Fit fit = Fit::kNo;
  for (const auto& [type, scenarios] : metadata.verified_tags) {
    if (!is_it(type)) continue;
    if (tags.empty()) return Fit::kYes;
    fit = Fit::kOtherTags;
    for (const std::vector<std::string>& scenario : scenarios) {
      std::set<std::string> known;
      for (const std::string& tag : scenario) known.insert(lower(tag));
      if (std::all_of(tags.begin(), tags.end(),
                      [&](const std::string& tag) { return known.contains(lower(tag)); }))
        return Fit::kYes;
    }
  }
  return fit;
}

const MapSchema kModelTypeKeys = {"model type",
                                  {"architecture", "num_hidden_layers", "hidden_size"}};
constexpr const char* kModelTypesFile = "model-types.json";

ModelFacts read_facts(Report& report, const Value& value) {
  ModelFacts facts;
  if (!require_map(report, value)) return facts;
  const MapReader reader(report, value, kModelTypeKeys);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (const auto text = reader.require("architecture"))
    facts.architecture = read_text(report, *text, kMaxNameCharacters).value_or("");
  if (const auto number = reader.require("num_hidden_layers"))
    facts.num_hidden_layers = read_integer(report, *number, 1, kMost).value_or(0);
  if (const auto number = reader.require("hidden_size"))
    facts.hidden_size = read_integer(report, *number, 1, kMost).value_or(0);
  return facts;
}

std::string describe(const ModelFacts& facts) {
  return facts.architecture + " of " + std::to_string(facts.num_hidden_layers) +
         " layers and hidden_size " + std::to_string(facts.hidden_size);
}

std::vector<std::string> types_with(const std::vector<ModelType>& types, const ModelFacts& facts) {
  std::vector<std::string> names;
  for (const ModelType& type : types)
    if (type.facts == facts) names.push_back(type.name);
  return names;
}

// How a recipe that is not for the model type asked for was found.
std::string note_of(const RecipeQuery& query, const std::string& taken) {
  const std::string known = "config.json is that of " + taken;
  const bool is_architecture = query.facts && taken == query.facts->architecture;
  const std::string any = "the recipe for every " + taken + " is taken";
  if (query.model_type.empty())
    return is_architecture ? "no recipe is for this model alone: " + any : known;
  return "no recipe is for model type `" + query.model_type +
         "`: " + (is_architecture ? any : known + ", whose recipe is taken") +
         "; --config-path names another, laos recipes lists them";
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

std::vector<std::string> all_quant_types() {
  std::vector<std::string> types;
  for (const QuantType& type : kQuantTypes) types.emplace_back(type.name);
  return types;
}

std::vector<std::string> quant_types_of(const Metadata& metadata) {
  std::vector<std::string> types;
  for (const QuantType& type : kQuantTypes)
    if (says(metadata.label, type)) types.emplace_back(type.name);
  return types;
}

std::vector<ModelType> list_model_types(const std::vector<std::filesystem::path>& directories) {
  std::vector<ModelType> types;
  for (const std::filesystem::path& directory : directories) {
    const std::filesystem::path path = directory / kModelTypesFile;
    std::error_code error;
    if (!std::filesystem::exists(path, error)) continue;
    const std::string name = path.string();
    std::vector<Problem> duplicates;
    // JSON is YAML.
    const DocumentNode root =
        parse_document(io::read_text(path, static_cast<int64_t>(kMaxYamlBytes)), name, duplicates);
    Report report(name);
    for (Problem& duplicate : duplicates) report.problem(std::move(duplicate));
    if (require_map(report, {&root, "model types"}))
      for (size_t i = 0; i < root.items.size(); ++i)
        types.push_back({root.keys[i].text,
                         read_facts(report, {&root.items[i], printable(root.keys[i].text)})});
    report.throw_if_any();
  }
  return types;
}

std::optional<Problem> wrong_model_type(const std::vector<ModelType>& types,
                                        const std::string& model_type, const ModelFacts& facts) {
  const ModelType* named = nullptr;
  for (const ModelType& type : types) {
    if (!same_but_for_case(type.name, model_type)) continue;
    if (type.facts == facts) return std::nullopt;
    if (named == nullptr) named = &type;
  }
  if (named == nullptr) return std::nullopt;
  const std::vector<std::string> right = types_with(types, facts);
  return Problem{
      .what = "model type `" + model_type + "` is a " + describe(named->facts) +
              ", but config.json says " + describe(facts),
      .where = "--model-type",
      .fix = right.empty() ? "leave it out" : "write " + right.front() + ", or leave it out"};
}

RecipeChoice choose_recipe(const std::vector<std::filesystem::path>& directories,
                           const RecipeQuery& query) {
  LAOS_ASSERT(!query.model_type.empty() || query.facts);
  const QuantType& wanted = quant_type_named(query.quant_type);
  const std::vector<RecipeEntry> recipes = list_recipes(directories);
  std::vector<std::string> asked_for;  // model types, best first
  if (!query.model_type.empty()) asked_for.push_back(query.model_type);
  if (query.facts) {
    const std::vector<ModelType> types = list_model_types(directories);
    if (const auto wrong = wrong_model_type(types, query.model_type, *query.facts))
      throw Error(ErrorCode::kUsage, *wrong);
    for (std::string& type : types_with(types, *query.facts)) asked_for.push_back(std::move(type));
    asked_for.push_back(query.facts->architecture);
  }
  std::string others;  // files of this quant type that are for something else
  for (const std::string& model_type : asked_for) {
    if (!others.empty()) break;  // of other tags: nothing more general has these either
    for (const auto& [path, metadata] : recipes) {
      if (!says(metadata.label, wanted) || profile_of(metadata) != query.profile) continue;
      const Fit fit = fit_of(metadata, model_type, query.tags);
      if (fit == Fit::kYes)
        return {path, model_type, model_type == query.model_type ? "" : note_of(query, model_type)};
      if (fit == Fit::kOtherTags)
        others += path.string() + " is for other tags: leave out --tag to take it; ";
    }
  }
  for (const auto& [path, metadata] : recipes)
    if (says(metadata.label, wanted) && profile_of(metadata) == query.profile &&
        path.parent_path().filename() == kDefaultFolder)
      others += path.string() + " is for any model: give it as --config-path to take it; ";

  std::map<std::string, std::set<std::string>> types_of;  // quant types by model type
  for (const auto& [path, metadata] : recipes) {
    for (std::string type : quant_types_of(metadata)) {
      if (!profile_of(metadata).empty()) type += " --" + profile_of(metadata);
      for (const std::string& model : metadata.verified_model_types) types_of[model].insert(type);
      for (const auto& [model, unused] : metadata.verified_tags) types_of[model].insert(type);
    }
  }
  std::vector<std::string> models;
  for (const auto& [model, types] : types_of) models.push_back(model);
  std::string searched;
  for (const std::filesystem::path& directory : directories) {
    searched += (searched.empty() ? "" : ", ") + directory.string();
  }
  std::string fix;
  bool is_known = false;  // a model type with recipes of other quant types
  for (const std::string& model_type : asked_for)
    if (const auto found = types_of.find(model_type); found != types_of.end()) {
      is_known = true;
      fix += "for " + model_type + " there are " + listed(found->second) + "; ";
    }
  if (!is_known) {
    const std::string nearest = nearest_name(query.model_type, models);
    if (!nearest.empty()) fix += "did you mean `" + nearest + "`? ";
    fix += models.empty() ? "there are no recipes in these directories; "
                          : "there are recipes for " + listed(models) + " (see laos recipes); ";
  }
  throw Error(ErrorCode::kUsage, {.what = "no recipe for model type `" + asked_for.front() +
                                          "` and quant type `" + query.quant_type + "`" +
                                          (query.profile.empty() ? "" : " --" + query.profile),
                                  .where = searched,
                                  .fix = fix + others + "or name a recipe with --config-path"});
}

}  // namespace laos::recipe
