#include "recipe/recipe.h"

#include <algorithm>
#include <fstream>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "recipe/order.h"
#include "recipe/processors.h"
#include "recipe/savers.h"
#include "recipe/schema.h"
#include "recipe/strategies.h"
#include "recipe/yaml_document.h"

namespace laos::recipe {
namespace {

constexpr size_t kMaxKeyCharacters = 512;

const MapSchema kTopKeys = {"Top level", {"apiversion", "metadata", "spec"}, /*open=*/true};
const MapSchema kMetadataKeys = {
    "metadata", {"config_id", "score", "label", "verified_model_types", "verified_tags"}};
const MapSchema kLabelKeys = {
    "metadata.label",
    {"w_bit", "a_bit", "is_sparse", "kv_cache", "fa_bit", "fa_quant", "profile"},
    /*open=*/true};
const MapSchema kSpecKeys = {"spec", {"runner", "prior", "process", "save", "dataset", "kv_cache"}};
const MapSchema kCacheKeys = {"spec.kv_cache", {"dtype"}};
const MapSchema kPriorKeys = {"spec.prior[]", {"process", "dataset"}};

enum class Depth { kMetadata, kWhole };

class RecipeReader {
 public:
  explicit RecipeReader(Report& report) : report_(report) {}

  Recipe read(const DocumentNode& root, Depth depth) {
    Recipe recipe;
    const MapReader top(report_, {&root, ""}, kTopKeys);
    check_characters({&root, ""});
    if (const auto metadata = top.find("metadata"); metadata && require_map(report_, *metadata)) {
      recipe.metadata = read_metadata(*metadata);
    }
    if (depth == Depth::kMetadata) return recipe;
    if (const auto version = top.require("apiversion"))
      read_choice(report_, *version, {"modelslim_v1"});
    if (const auto spec = top.require("spec"); spec && require_map(report_, *spec))
      read_spec(*spec, recipe);
    return recipe;
  }

 private:
  // Keys, and text in mappings, may hold these characters only; lists are not looked into.
  void check_characters(const Value& map) {
    constexpr std::string_view kPunctuation = " _\"'><=[](),{}:|/.*~?!+-\\";
    const auto is_allowed = [&](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
             kPunctuation.find(c) != std::string_view::npos;
    };
    const auto check = [&](const DocumentNode& node, const std::string& path, const char* what) {
      if (std::all_of(node.text.begin(), node.text.end(), is_allowed)) return;
      report_.problem(
          {&node, path},
          std::string(what) + " `" + printable(node.text) +
              "` has a character that recipes may not use",
          "allowed are ASCII letters, digits, blanks and " + std::string(kPunctuation.substr(1)));
    };
    for (size_t i = 0; i < map.node->items.size(); ++i) {
      const DocumentNode& key = map.node->keys[i];
      const DocumentNode& item = map.node->items[i];
      const std::string path = (map.key.empty() ? "" : map.key + ".") + printable(key.text);
      check(key, path, "the key");
      if (key.text.size() > kMaxKeyCharacters) {
        report_.problem({&key, path},
                        "the key `" + printable(key.text) + "` has more than " +
                            std::to_string(kMaxKeyCharacters) + " characters",
                        "make it shorter");
      }
      if (item.is_map()) check_characters({&item, path});
      if (item.kind == DocumentNode::Kind::kScalar && item.scalar.kind == ScalarKind::kText) {
        check(item, path, "the text");
      }
    }
  }

  Metadata read_metadata(const Value& value) {
    Metadata metadata;
    const MapReader reader(report_, value, kMetadataKeys);
    if (const auto id = reader.find("config_id")) {
      metadata.config_id = read_text(report_, *id, kMaxNameCharacters).value_or("");
    }
    if (const auto score = reader.find("score")) {
      metadata.score = read_number(report_, *score, /*min=*/0).value_or(0);
    }
    if (const auto label = reader.find("label"); label && require_map(report_, *label)) {
      for (size_t i = 0; i < label->node->items.size(); ++i) {
        const DocumentNode& item = label->node->items[i];
        if (item.kind != DocumentNode::Kind::kScalar) continue;
        metadata.label[label->node->keys[i].text] =
            item.scalar.kind == ScalarKind::kBool  ? (item.scalar.bool_value ? "true" : "false")
            : item.scalar.kind == ScalarKind::kInt ? std::to_string(item.scalar.int_value)
                                                   : item.text;
      }
    }
    if (const auto types = reader.find("verified_model_types")) {
      metadata.verified_model_types = read_texts(report_, *types, kMaxNameCharacters);
    }
    if (const auto tags = reader.find("verified_tags"); tags && require_map(report_, *tags)) {
      for (size_t i = 0; i < tags->node->items.size(); ++i) {
        const std::string& model_type = tags->node->keys[i].text;
        const Value scenarios{&tags->node->items[i], tags->key + "." + printable(model_type)};
        if (!require_list(report_, scenarios)) continue;
        for (size_t k = 0; k < scenarios.node->items.size(); ++k) {
          metadata.verified_tags[model_type].push_back(
              read_texts(report_, scenarios.item(k), kMaxNameCharacters));
        }
      }
    }
    return metadata;
  }

  void read_spec(const Value& value, Recipe& recipe) {
    const MapReader spec(report_, value, kSpecKeys);
    if (const auto runner = spec.find("runner")) {
      read_choice(report_, *runner, {"auto", "model_wise", "layer_wise", "dp_layer_wise"});
    }
    recipe.main.dataset_location = report_.locate({value.node, value.key + ".dataset"});
    if (const auto dataset = spec.find("dataset")) {
      recipe.main.dataset_location = report_.locate(*dataset);
      recipe.main.dataset = read_text(report_, *dataset, kMaxDatasetCharacters).value_or("");
    }
    if (const auto prior = spec.find("prior"); prior && require_list(report_, *prior)) {
      for (size_t i = 0; i < prior->node->items.size(); ++i) {
        recipe.prior.push_back(read_prior(prior->item(i), recipe.main));
      }
    }
    if (const auto process = spec.require("process")) {
      recipe.main.process = read_processors(reading_, *process, Pass::kMain);
    }
    check_order(report_, value, recipe, reading_.has_unread_fit);
    if (const auto save = spec.find("save"); save && require_list(report_, *save)) {
      for (size_t i = 0; i < save->node->items.size(); ++i)
        if (const auto saver = read_saver(report_, save->item(i))) recipe.save.push_back(*saver);
    }
    if (const auto cache = spec.find("kv_cache"); cache && require_map(report_, *cache)) {
      const MapReader reader(report_, *cache, kCacheKeys);
      if (const auto dtype = reader.require("dtype")) read_choice(report_, *dtype, {"int8"});
      recipe.kv_cache = KvCache{.location = report_.locate(*cache)};
    }
    const auto save = spec.find("save");
    if (!save || (save->node->is_list() && save->node->items.empty())) {
      report_.warn(value, "`save` is empty, so nothing will be written");
    }
  }

  Stage read_prior(const Value& value, const Stage& main) {
    Stage stage;
    stage.dataset = main.dataset;
    stage.dataset_location = main.dataset_location;
    if (!require_map(report_, value)) return stage;
    const MapReader reader(report_, value, kPriorKeys);
    if (const auto dataset = reader.find("dataset"); dataset && !dataset->node->is_null()) {
      stage.dataset_location = report_.locate(*dataset);
      stage.dataset = read_text(report_, *dataset, kMaxDatasetCharacters).value_or("");
    }
    if (const auto process = reader.require("process")) {
      stage.process = read_processors(reading_, *process, Pass::kPrior);
    }
    return stage;
  }

  Report& report_;
  Reading reading_ = {.report = report_};
};

std::string read_file(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::kIo, {.what = "cannot read the recipe: " + what,
                                 .where = path.string(),
                                 .fix = "name an existing YAML file"});
  };
  const std::string name = path.filename().string();
  if (!name.ends_with("yaml") && !name.ends_with("yml"))
    refuse("its name ends in neither yaml nor yml");
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) refuse("there is no such file");
  if (!std::filesystem::is_regular_file(status)) refuse("this is not a file");
  std::ifstream stream(path, std::ios::binary);
  if (!stream) refuse("it cannot be opened");
  std::string text(kMaxYamlBytes + 1,
                   '\0');  // one more than parse_document takes, so that it sees the excess
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad()) refuse("reading failed");
  text.resize(static_cast<size_t>(stream.gcount()));
  return text;
}

Recipe parse(const std::string& text, const std::string& name, Depth depth) {
  std::vector<Problem> duplicates;
  const DocumentNode root = parse_document(text, name, duplicates);
  Report report(name);
  for (Problem& duplicate : duplicates) report.problem(std::move(duplicate));
  Recipe recipe;
  if (require_map(report, {&root, ""})) recipe = RecipeReader(report).read(root, depth);
  report.throw_if_any();
  recipe.path = name;
  recipe.warnings = report.warnings();
  recipe.yaml = emit_document(root);
  return recipe;
}

}  // namespace

std::vector<std::string> known_keys() {
  std::vector<const MapSchema*> schemas = {&kTopKeys,  &kMetadataKeys, &kLabelKeys,
                                           &kSpecKeys, &kPriorKeys,    &kCacheKeys};
  for (const auto& more : {processor_schemas(), strategy_schemas(), saver_schemas()})
    schemas.insert(schemas.end(), more.begin(), more.end());
  std::vector<std::string> names;
  for (const MapSchema* map : schemas)
    for (const std::string& key : map->keys) names.push_back(map->title + ": " + key);
  return names;
}

Recipe load_recipe(const std::filesystem::path& path) {
  Recipe recipe = parse_recipe(read_file(path), path.string());
  recipe.path = path;
  return recipe;
}

Recipe parse_recipe(const std::string& text, const std::string& name) {
  return parse(text, name, Depth::kWhole);
}

RecipeEntry load_entry(const std::filesystem::path& path) {
  return {path, parse(read_file(path), path.string(), Depth::kMetadata).metadata};
}

}  // namespace laos::recipe
