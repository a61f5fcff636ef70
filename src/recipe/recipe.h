// A recipe: YAML of apiversion modelslim_v1, read into the option structs of the folders that do
// the work. docs/recipes.md describes the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "autoround/options.h"
#include "core/error.h"
#include "flatquant/options.h"
#include "gptq/options.h"
#include "quant/scheme.h"
#include "rotation/options.h"
#include "save/options.h"
#include "smooth/options.h"

namespace laos::recipe {

// Where something stands in the recipe, for messages and for the plan. What an alias repeats has
// the line of its anchor and the key of its use.
struct Location {
  std::string file;
  int line = 0;     // from 1; 0: not in a file
  int column = 0;   // from 1
  std::string key;  // "spec.process[1].strategies[0]"

  std::string text() const;  // "my.yaml:17:9 spec.process[1].strategies[0]"
};

struct Pattern {
  std::string text;  // at most 200 characters
  Location location;
};

// One entry of `strategies`: a scheme for the linears it includes and does not exclude.
struct Strategy {
  std::optional<quant::LinearScheme> scheme;  // nullopt = they stay float
  std::vector<Pattern> include;
  std::vector<Pattern> exclude;
  Location location;
};

struct FitRotation {  // adapt_rotation, stage 1
  rotation::FitOptions options;
};
struct Rotate {  // adapt_rotation stage 2, or quarot
  rotation::RotateOptions options;
};
struct IterSmooth {
  smooth::SmoothOptions options;
  std::vector<Pattern> include, exclude;  // of source modules
};
struct HeadRotation {
  rotation::HeadFitOptions options;
};
struct Flatquant {
  flatquant::FlatquantOptions options;
  // Ranks that share the inputs of o_proj and down_proj; of several the checkpoint can be made for
  // each, and is made for the first.
  std::vector<int64_t> tp = {1};
  bool keeps_unfit = false;  // linears of sizes that engines cannot transform stay without
  std::vector<Pattern> include, exclude;  // of linears
};
struct LinearQuant {
  Strategy strategy;                      // scale_dtype is not set: it is the checkpoint's dtype
  std::optional<gptq::GptqOptions> gptq;  // nullopt: round to nearest
};
struct GptqQuant {
  gptq::GptqOptions options;
  std::vector<Strategy> strategies;  // never empty
};
struct AutoroundQuant {
  autoround::TrainOptions options;
  std::vector<Strategy> strategies;  // never empty
};

struct Processor {
  std::variant<FitRotation, Rotate, IterSmooth, HeadRotation, Flatquant, LinearQuant, GptqQuant,
               AutoroundQuant>
      what;
  Location location;
  std::string type;  // as the recipe names it: "gptq_quant"
};

// spec.kv_cache: attention's cache in int8, with a fixed scale a channel.
struct KvCache {
  Location location;
};

// A pass over the model: its processors in order and the dataset it calibrates on.
struct Stage {
  std::vector<Processor> process;
  std::string dataset;  // empty: the set that comes with laos
  Location dataset_location;
};

struct Metadata {
  std::string config_id = "Unknown";
  double score = 100;
  std::map<std::string, std::string> label;  // scalars by key: w_bit "4", is_sparse "false", ...
  std::vector<std::string> verified_model_types;
  // Model type -> scenarios, each a list of tags.
  std::map<std::string, std::vector<std::vector<std::string>>> verified_tags;
};

// What load_recipe guarantees of one: `prior` holds at most one FitRotation and nothing else;
// `main.process` is not empty and holds no FitRotation and at most one Rotate, which stands before
// all quantizers (and needs a FitRotation when it uses the fitted matrix); every strategy's scheme
// has a label (quant::label_of). What stood in a `group` stands in its place.
struct Recipe {
  std::filesystem::path path;
  Metadata metadata;
  std::vector<Stage> prior;
  Stage main;
  std::vector<save::SaverOptions> save;  // empty: nothing is written
  std::optional<KvCache> kv_cache;       // nullopt: the cache holds floats
  std::vector<std::string> warnings;     // accepted, but probably not meant; each with its location
  // The whole document as it is written beside the checkpoint: aliases replaced by what they stand
  // for, keys in their order, the user's own top-level keys included.
  std::string yaml;
};

// Reads a recipe. Throws Error(kIo), or Error(kRecipe) with every problem found, each at
// file:line:column with its key: syntax, duplicate keys, unknown keys (with the nearest known one),
// wrong types, values out of range, registered processors that laos does not run, act/weight pairs
// that no format holds.
Recipe load_recipe(const std::filesystem::path& path);
// The same from text; `name` stands for the file in messages.
Recipe parse_recipe(const std::string& text, const std::string& name);

// Every key that has a meaning, as "section: key". docs/recipes.md has a row for each.
std::vector<std::string> known_keys();

// Linears matched by strategies: module name -> index of the strategy that decided, first match
// wins. A linear outside the decoder layers (lm_head) may be among them; it stays float all the
// same.
struct Assignment {
  std::map<std::string, size_t> strategy_of;
  std::set<std::string> excluded;  // linears that a strategy includes and excludes
  // Strategies that match linears an earlier one has; patterns that never decide anything.
  std::vector<std::string> warnings;
  // Patterns that name decoder layers which no linear is in: the recipe is for another model.
  std::vector<Problem> problems;
};
// A number between dots of a pattern is a decoder layer, and a negative one counts from the end: -1
// is the last layer.
// `names`: every linear of the model, lm_head included. Throws Error(kRecipe) for a pattern that
// expands to more than 1000 alternatives, and when all patterns together expand to more than
// 100000.
Assignment assign(const std::vector<Strategy>& strategies, const std::vector<std::string>& names);

// A recipe as the choice sees it: what its `spec` asks for is read only when it is taken, so that
// recipes for other tools and models may stand beside it.
struct RecipeEntry {
  std::filesystem::path path;
  Metadata metadata;
};
// Reads the metadata of a recipe. Throws as load_recipe does, but never for `spec` or `apiversion`.
RecipeEntry load_entry(const std::filesystem::path& path);

// Every recipe of the directories: the *.yaml and *.yml files of each and of the folders in it,
// directory after directory, in each by falling score, then by config_id. Directories that do not
// exist are passed over. Throws Error(kRecipe) with the problems of every file whose metadata
// cannot be read, Error(kIo) for a directory that cannot be listed.
std::vector<RecipeEntry> list_recipes(const std::vector<std::filesystem::path>& directories);

// Every quant type that a recipe's label can say.
std::vector<std::string> all_quant_types();
// The quant types that a recipe's label says: one, or none when it has no such label.
std::vector<std::string> quant_types_of(const Metadata& metadata);
// label.profile, an extension of laos: "" for a published scheme.
std::string profile_of(const Metadata& metadata);

// What config.json says of a model, as far as it tells model types apart.
struct ModelFacts {
  std::string architecture;  // "Qwen3ForCausalLM"
  int64_t num_hidden_layers = 0;
  int64_t hidden_size = 0;

  bool operator==(const ModelFacts&) const = default;
};
struct ModelType {
  std::string name;  // "Qwen3-8B"
  ModelFacts facts;
};
// The table of model types of each directory, as it is there: DIRECTORY/model-types.json holds
// {"Qwen3-8B": {"architecture": "Qwen3ForCausalLM", "num_hidden_layers": 36, "hidden_size": 4096}}.
// Throws Error(kRecipe) with every problem of it, Error(kIo).
std::vector<ModelType> list_model_types(const std::vector<std::filesystem::path>& directories);

// What is wrong with calling a model of these facts `model_type` (in any case): nothing when no
// type of that name is known, or its facts are these.
std::optional<Problem> wrong_model_type(const std::vector<ModelType>& types,
                                        const std::string& model_type, const ModelFacts& facts);

// What a recipe is wanted for.
struct RecipeQuery {
  std::string model_type;  // "Qwen3-8B"; empty: that of `facts`
  std::string quant_type;  // "w4a4"; choose.cpp has the list
  std::string profile;     // "fast", "balanced", "full", or "" for the published scheme
  std::vector<std::string> tags;
  std::optional<ModelFacts> facts = std::nullopt;  // nullopt: chosen by model_type alone
};

struct RecipeChoice {
  std::filesystem::path path;
  std::string model_type;  // that the recipe was taken for; the architecture when for any of it
  std::string note;        // how that was found, when it is not the model type asked for; or ""
};

// The first of list_recipes whose label says that quant type and profile and whose
// verified_model_types list the model type or, where they list none, whose verified_tags has a
// scenario of the model type with all of `tags` (case does not matter anywhere). Where no recipe is
// for the model type that is asked for, those are looked for that the facts say, then the
// architecture: a recipe that lists it is for every model of it. Throws Error as list_recipes and
// list_model_types do, and Error(kUsage) for an unknown quant type, a model type that contradicts
// the facts, and when there is no such recipe, listing what there is.
RecipeChoice choose_recipe(const std::vector<std::filesystem::path>& directories,
                           const RecipeQuery& query);

}  // namespace laos::recipe
