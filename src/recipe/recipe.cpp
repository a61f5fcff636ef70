#include "recipe/recipe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <fstream>
#include <limits>
#include <sstream>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "recipe/glob.h"
#include "recipe/schema.h"
#include "recipe/yaml_document.h"

namespace laos::recipe {
namespace {

constexpr size_t kMaxNameCharacters = 200;
constexpr size_t kMaxDatasetCharacters = 4096;
constexpr size_t kMaxLayerTypeCharacters = 128;
constexpr size_t kMaxKeyCharacters = 512;
constexpr int64_t kMaxIters = 1'000'000;
constexpr int64_t kAutoIters = 400;  // of `iters: auto`, at most: the published number
constexpr int64_t kMaxRefine = 100;
constexpr int64_t kMaxHeadSteps = 1000;
constexpr int64_t kMaxPartFileGiB = int64_t{1}
                                    << 20;  // a pebibyte; keeps the size in bytes within int64
constexpr int64_t kMaxBlockSize = int64_t{1} << 30;
constexpr const char* kDefaultDataset = "mix_calib.jsonl";

const std::vector<std::string> kSupportedProcessors = {
    "adapt_rotation", "quarot",     "head_rotation",   "iter_smooth",
    "linear_quant",   "gptq_quant", "autoround_quant", "group"};
// Of the reference, and valid in its recipes.
const std::vector<std::string> kOtherProcessors = {"smooth_quant",
                                                   "flex_smooth_quant",
                                                   "flex_awq_ssz",
                                                   "awq",
                                                   "kv_smooth",
                                                   "online_quarot",
                                                   "load",
                                                   "dynamic_cache",
                                                   "fa3_quant",
                                                   "float_sparse",
                                                   "flatquant",
                                                   "svd_res",
                                                   "unary_analysis",
                                                   "binary_analysis",
                                                   "binary_operator_layer_wise",
                                                   "binary_operator_model_wise"};
const std::vector<std::string> kSupportedSavers = {"ascendv1_saver"};
const std::vector<std::string> kOtherSavers = {"mindie_format_saver", "compressed_tensors"};

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<std::string> joined(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// ----------------------------------------------------------------------------------------- schemes

enum class Quantizer { kStrategies, kLinear };  // autoround_quant and gptq_quant, linear_quant

// An act/weight pair that laos runs. An act of dtype float has any scope.
struct SupportedPair {
  const char* weight_dtype;
  const char* weight_scope;
  const char* act_dtype;
  const char* act_scope;
  bool in_strategies;
  bool in_linear_quant;
};

constexpr std::array<SupportedPair, 8> kSupportedPairs = {{
    {"int4", "per_channel", "int4", "per_token", true, false},
    {"int4", "per_group", "int4", "per_token", true, false},
    {"int8", "per_channel", "int8", "per_token", true, true},
    {"int8", "per_group", "int8", "per_token", true, false},
    {"int4", "per_channel", "int8", "per_token", true, true},
    {"int8", "per_channel", "float", "per_tensor", true, true},
    {"int8", "per_group", "float", "per_tensor", true, false},
    {"int8", "per_channel", "int8", "per_tensor", false, true},
}};

int bits_of(const std::string& dtype) { return dtype == "int4" ? 4 : dtype == "int8" ? 8 : 16; }

// One side of a qconfig as it is written.
struct Side {
  std::string dtype;
  std::string scope;
  std::string method = "none";
  bool symmetric = true;
  int64_t group_size = 0;
  DType scale_dtype = DType::kBF16;
  bool mean_range = false;
};

// The side `act` has when a qconfig leaves it out.
const Side kFloatSide = {.dtype = "float", .scope = "per_tensor"};

quant::LinearScheme scheme_of(const Side& weight, const Side& act) {
  quant::LinearScheme scheme;
  scheme.weight = {.bits = bits_of(weight.dtype),
                   .group_size = weight.group_size,
                   .scale_dtype = weight.scale_dtype};
  scheme.act.bits = bits_of(act.dtype);
  if (act.dtype == "int8" && act.scope == "per_tensor") {
    scheme.act.is_static = true;
    scheme.act.symmetric = act.symmetric;
    scheme.act.mean_range = act.mean_range;
  }
  return scheme;
}

std::string describe_pair(const std::string& weight_dtype, const std::string& weight_scope,
                          const std::string& act_dtype, const std::string& act_scope) {
  return "weight " + weight_dtype + " " + weight_scope + " with act " +
         (act_dtype == "float" ? act_dtype : act_dtype + " " + act_scope);
}

// linear_quant has no int4 activations and, but for method gptq, no groups.
bool runs(const SupportedPair& pair, Quantizer quantizer, const std::string& method) {
  if (quantizer == Quantizer::kStrategies) return pair.in_strategies;
  return pair.in_linear_quant ||
         (method == "gptq" && pair.in_strategies && bits_of(pair.act_dtype) >= 8);
}

std::string list_supported_pairs(Quantizer quantizer, const std::string& method) {
  std::string list;
  for (const SupportedPair& pair : kSupportedPairs) {
    if (!runs(pair, quantizer, method)) continue;
    const Side weight = {.dtype = pair.weight_dtype, .scope = pair.weight_scope};
    const Side act = {.dtype = pair.act_dtype, .scope = pair.act_scope};
    const auto label = quant::label_of(scheme_of(weight, act));
    LAOS_ASSERT(label.has_value());
    list += (list.empty() ? "" : "; ") +
            describe_pair(pair.weight_dtype, pair.weight_scope, pair.act_dtype, pair.act_scope) +
            " (" + *label + ")";
  }
  return list;
}

// ------------------------------------------------------------------------------------------ reader

enum class Pass { kPrior, kMain };
enum class Depth { kMetadata, kWhole };

class RecipeReader {
 public:
  explicit RecipeReader(Report& report) : report_(report) {}

  Recipe read(const DocumentNode& root, Depth depth) {
    Recipe recipe;
    const MapReader top(report_, {&root, ""}, schema::kTop);
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

  std::vector<std::string> read_texts(const Value& value, size_t max_characters) {
    std::vector<std::string> texts;
    if (!require_list(report_, value)) return texts;
    for (size_t i = 0; i < value.node->items.size(); ++i) {
      if (auto text = read_text(report_, value.item(i), max_characters))
        texts.push_back(std::move(*text));
    }
    return texts;
  }

  Metadata read_metadata(const Value& value) {
    Metadata metadata;
    const MapReader reader(report_, value, schema::kMetadata);
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
      metadata.verified_model_types = read_texts(*types, kMaxNameCharacters);
    }
    if (const auto tags = reader.find("verified_tags"); tags && require_map(report_, *tags)) {
      for (size_t i = 0; i < tags->node->items.size(); ++i) {
        const std::string& model_type = tags->node->keys[i].text;
        const Value scenarios{&tags->node->items[i], tags->key + "." + printable(model_type)};
        if (!require_list(report_, scenarios)) continue;
        for (size_t k = 0; k < scenarios.node->items.size(); ++k) {
          metadata.verified_tags[model_type].push_back(
              read_texts(scenarios.item(k), kMaxNameCharacters));
        }
      }
    }
    return metadata;
  }

  void read_spec(const Value& value, Recipe& recipe) {
    const MapReader spec(report_, value, schema::kSpec);
    if (const auto runner = spec.find("runner")) {
      read_choice(report_, *runner, {"auto", "model_wise", "layer_wise", "dp_layer_wise"});
    }
    recipe.main.dataset = kDefaultDataset;
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
      recipe.main.process = read_processors(*process, Pass::kMain);
    }
    check_order(value, recipe);
    if (const auto save = spec.find("save"); save && require_list(report_, *save)) {
      for (size_t i = 0; i < save->node->items.size(); ++i) read_saver(save->item(i), recipe);
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
    const MapReader reader(report_, value, schema::kPrior);
    if (const auto dataset = reader.find("dataset"); dataset && !dataset->node->is_null()) {
      stage.dataset_location = report_.locate(*dataset);
      stage.dataset = read_text(report_, *dataset, kMaxDatasetCharacters).value_or("");
    }
    if (const auto process = reader.require("process")) {
      stage.process = read_processors(*process, Pass::kPrior);
    }
    return stage;
  }

  std::vector<Processor> read_processors(const Value& value, Pass pass) {
    std::vector<Processor> processors;
    if (!require_list(report_, value)) return processors;
    if (value.node->items.empty()) {
      report_.problem(value, "there are no processors, so there is nothing to do",
                      "add one of " + list_names(kSupportedProcessors));
    }
    for (size_t i = 0; i < value.node->items.size(); ++i) {
      const Value item = value.item(i);
      if (!require_map(report_, item)) continue;
      if (const DocumentNode* type = item.node->find("type");
          type != nullptr && type->text == "group") {
        const MapReader group(report_, item, schema::kGroup);
        const auto configs = group.require("configs");
        if (!configs) continue;
        for (Processor& processor : read_processors(*configs, pass))
          processors.push_back(std::move(processor));
      } else if (auto processor = read_processor(item, pass)) {
        processors.push_back(std::move(*processor));
      }
    }
    return processors;
  }

  // The text at `type`, if it is one of those supported; a problem otherwise.
  std::optional<std::string> read_type(const Value& value, const std::string& kind,
                                       const std::vector<std::string>& supported,
                                       const std::vector<std::string>& other) {
    const DocumentNode* node = value.node->find("type");
    if (node == nullptr) {
      report_.problem(value, "`type` is missing",
                      "add `type: ` and one of " + list_names(supported));
      return std::nullopt;
    }
    const Value type{node, value.key + ".type"};
    auto text = read_text(report_, type, kMaxNameCharacters);
    if (!text) return std::nullopt;
    if (contains(supported, *text)) return text;
    if (contains(other, *text)) {
      report_.problem(type, kind + " `" + *text + "` is not supported yet",
                      "remove it, or use one of " + list_names(supported));
    } else {
      report_.problem(
          type, "unknown " + kind + " `" + printable(*text) + "`",
          did_you_mean(*text, joined(supported, other)) + "supported: " + list_names(supported));
    }
    return std::nullopt;
  }

  std::optional<Processor> read_processor(const Value& value, Pass pass) {
    if (const DocumentNode* type = value.node->find("type");
        type != nullptr && contains(joined(kSupportedSavers, kOtherSavers), type->text)) {
      report_.problem({type, value.key + ".type"},
                      "`" + type->text + "` is a saver, not a processor", "move it to spec.save");
      return std::nullopt;
    }
    const auto type = read_type(value, "processor", kSupportedProcessors, kOtherProcessors);
    if (!type) return std::nullopt;
    Processor processor;
    processor.location = report_.locate(value);
    if (*type == "adapt_rotation") {
      const std::optional<int> stage = read_rotation_stage(value, pass);
      if (!stage) {
        num_unread_fits_ += pass == Pass::kPrior ? 1 : 0;
        return std::nullopt;
      }
      if (*stage == 1) processor.what = read_fit(value);
      if (*stage == 2)
        processor.what = read_rotate(MapReader(report_, value, schema::kRotate, &schema::kFit),
                                     /*use_fitted=*/true);
      return processor;
    }
    if (pass == Pass::kPrior) {
      report_.problem(value,
                      *type +
                          " stands in spec.prior, whose only result is the fitted rotation: "
                          "what it does would be lost",
                      "move it to spec.process");
    }
    if (*type == "quarot")
      processor.what =
          read_rotate(MapReader(report_, value, schema::kQuarot), /*use_fitted=*/false);
    else if (*type == "iter_smooth")
      processor.what = read_smooth(value);
    else if (*type == "head_rotation")
      processor.what = read_heads(value);
    else if (*type == "linear_quant")
      processor.what = read_linear(value);
    else if (*type == "gptq_quant")
      processor.what = read_gptq(value);
    else
      processor.what = read_autoround(value);
    return processor;
  }

  // ------------------------------------------------------------------------------- adapt_rotation

  // The stage of an adapt_rotation, which decides its keys; refuses one in the wrong pass.
  std::optional<int> read_rotation_stage(const Value& value, Pass pass) {
    const DocumentNode* node = value.node->find("stage");
    if (node == nullptr) {
      report_.problem(value, "`stage` is missing",
                      "add `stage: 1` to fit the rotation (in spec.prior), `stage: 2` to apply it");
      return std::nullopt;
    }
    const auto stage = read_integer(report_, {node, value.key + ".stage"}, 1, 2);
    if (!stage) return std::nullopt;
    if (*stage == 1 && pass == Pass::kMain) {
      report_.problem(
          value,
          "stage 1 of adapt_rotation stands in spec.process: its rotation would be fitted only "
          "after stage 2 has looked for it",
          "move it to spec.prior: `prior: [{process: [{type: adapt_rotation, stage: 1}]}]`");
    }
    if (*stage == 2 && pass == Pass::kPrior) {
      report_.problem(
          value,
          "stage 2 of adapt_rotation stands in spec.prior: each pass begins with the unrotated "
          "model, so it would have no effect",
          "move it to spec.process, in front of autoround_quant");
    }
    return static_cast<int>(*stage);
  }

  FitRotation read_fit(const Value& value) {
    FitRotation fit;
    rotation::FitOptions& options = fit.options;
    const MapReader reader(report_, value, schema::kFit, &schema::kRotate);
    if (const auto objective = reader.find("objective")) {
      if (const auto name = read_choice(report_, *objective, {"procrustes", "token_range"});
          name && *name == "token_range") {
        options.objective = rotation::FitObjective::kTokenRange;
        options.steps = 200;
        options.layer_type = {"q_proj", "up_proj"};  // an input of each norm
      }
    }
    reader.integer("steps", 1, 1000, options.steps);
    if (const auto dtype = reader.find("quant_dtype")) {
      if (const auto name = read_choice(report_, *dtype, {"int4", "int8"})) {
        options.quant_bits = *name == "int4" ? 4 : 8;
      }
    }
    if (const auto types = reader.find("layer_type")) options.layer_type = read_layer_types(*types);
    read_block_size(reader, options.block_size);
    reader.integer("max_samples", 1, 100'000, options.max_samples);
    return fit;
  }

  std::vector<std::string> read_layer_types(const Value& value) {
    std::vector<std::string> types = read_texts(value, kMaxLayerTypeCharacters);
    if (value.node->is_list() && value.node->items.empty()) {
      report_.problem(value, "`layer_type` names no linear", "list at least one, e.g. `[up_proj]`");
    }
    for (size_t i = 0; value.node->is_list() && i < value.node->items.size(); ++i) {
      const DocumentNode& item = value.node->items[i];
      if (item.scalar.kind == ScalarKind::kText && item.kind == DocumentNode::Kind::kScalar &&
          item.text.find_first_not_of(" \t\r\n") == std::string::npos) {
        report_.problem(value.item(i), "a blank name would match every linear",
                        "write part of a linear's name, e.g. `up_proj`");
      }
    }
    return types;
  }

  Rotate read_rotate(const MapReader& reader, bool use_fitted) {
    Rotate rotate;
    rotation::RotateOptions& options = rotate.options;
    options.use_fitted = use_fitted;
    options.export_extra_info = !use_fitted;
    reader.boolean("online", options.online);
    reader.boolean("export_extra_info", options.export_extra_info);
    read_block_size(reader, options.block_size);
    if (const auto layers = reader.find("down_proj_online_layers");
        layers && require_list(report_, *layers)) {
      for (size_t i = 0; i < layers->node->items.size(); ++i) {
        const auto layer =
            read_integer(report_, layers->item(i), 0, std::numeric_limits<int32_t>::max());
        if (layer) options.down_proj_online_layers.push_back(*layer);
      }
    }
    // quarot has no upper bound of its own; one beyond every model is refused by the plan.
    reader.integer("max_tp_size", 1, use_fitted ? 64 : kMaxBlockSize, options.max_tp_size);
    require_power_of_two(reader, "max_tp_size", options.max_tp_size);
    return rotate;
  }

  void read_block_size(const MapReader& reader, int64_t& block_size) {
    reader.integer("block_size", -1, kMaxBlockSize, block_size);
    if (block_size != -1) require_power_of_two(reader, "block_size", block_size);
  }

  void require_power_of_two(const MapReader& reader, const std::string& key, int64_t number) {
    if (number > 0 && std::has_single_bit(static_cast<uint64_t>(number))) return;
    report_.problem(*reader.find(key),
                    "`" + key + "` must be a power of two, not " + std::to_string(number),
                    key == "block_size" ? "write a power of two, or -1 for one whole block"
                                        : "write a power of two such as 4");
  }

  HeadRotation read_heads(const Value& value) {
    HeadRotation heads;
    MapReader(report_, value, schema::kHeads)
        .integer("steps", 1, kMaxHeadSteps, heads.options.steps);
    return heads;
  }

  // ----------------------------------------------------------------------------------- iter_smooth

  IterSmooth read_smooth(const Value& value) {
    IterSmooth smooth;
    smooth::SmoothOptions& options = smooth.options;
    const MapReader reader(report_, value, schema::kSmooth);
    read_fraction(reader, "alpha", options.alpha);
    read_fraction(reader, "scale_min", options.scale_min);
    if (const auto statistic = reader.find("statistic"))
      if (const auto name = read_choice(report_, *statistic, {"peak", "l4"}))
        options.statistic = *name == "l4" ? smooth::Statistic::kL4 : smooth::Statistic::kPeak;
    if (const auto types = reader.find("enable_subgraph_type");
        types && require_list(report_, *types)) {
      options.norm_linear = options.ov = options.up_down = false;
      for (size_t i = 0; i < types->node->items.size(); ++i) {
        const auto name =
            read_choice(report_, types->item(i), {"norm-linear", "linear-linear", "ov", "up-down"});
        if (name == "norm-linear") options.norm_linear = true;
        if (name == "ov") options.ov = true;
        if (name == "up-down") options.up_down = true;
        if (name == "linear-linear" && types->node->items.size() == 1)
          report_.warn(types->item(i), "Qwen3 has no `linear-linear` pair: nothing is smoothed");
      }
    }
    bool symmetric = true;
    reader.boolean("symmetric", symmetric);
    if (!symmetric && options.norm_linear)
      report_.problem(*reader.find("symmetric"),
                      "`symmetric: false` with `norm-linear` would give norms and linears a bias, "
                      "which Qwen3 has not and engines skip when loading",
                      "write `symmetric: true`, or leave norm-linear out of enable_subgraph_type");
    smooth.include = read_patterns_or_all(reader, value);
    if (const auto exclude = reader.find("exclude"); exclude && !exclude->node->is_null())
      smooth.exclude = read_patterns(*exclude);
    return smooth;
  }

  // A number strictly between 0 and 1.
  void read_fraction(const MapReader& reader, const std::string& key, double& out) {
    const auto value = reader.find(key);
    if (!value) return;
    const auto number = read_number(report_, *value, 0);
    if (!number) return;
    if (*number > 0 && *number < 1)
      out = *number;
    else
      report_.problem(*value, "`" + key + "` must lie between 0 and 1, not at an end",
                      "write a number such as " + std::string(key == "alpha" ? "0.9" : "1.0e-5"));
  }

  // ------------------------------------------------------------------------------- quantizers

  AutoroundQuant read_autoround(const Value& value) {
    AutoroundQuant quant;
    const MapReader reader(report_, value, schema::kAutoround);
    const auto iters = reader.find("iters");
    if (iters && iters->node->text == "auto") {
      quant.options.until_flat = true;
      quant.options.iters = kAutoIters;
    } else {
      reader.integer("iters", 1, kMaxIters, quant.options.iters);
    }
    reader.boolean("enable_minmax_tuning", quant.options.enable_minmax_tuning);
    reader.boolean("enable_round_tuning", quant.options.enable_round_tuning);
    reader.boolean("act_aware", quant.options.act_aware);
    quant.strategies = read_strategies(reader);
    if (const auto train = reader.find("train")) {
      autoround::TrainOptions& options = quant.options;
      read_dtypes(*train, quant.strategies, options.train_int4, options.train_int8);
    }
    return quant;
  }

  // `train` and `solve`: weight dtypes, of which at least one is a strategy's.
  void read_dtypes(const Value& value, const std::vector<Strategy>& strategies, bool& int4,
                   bool& int8) {
    if (!require_list(report_, value)) return;
    int4 = int8 = false;
    for (size_t i = 0; i < value.node->items.size(); ++i)
      if (const auto dtype = read_choice(report_, value.item(i), {"int4", "int8"}))
        (dtype == "int4" ? int4 : int8) = true;
    const bool any = std::any_of(strategies.begin(), strategies.end(), [&](const Strategy& s) {
      return s.scheme && (s.scheme->weight.bits == 4 ? int4 : int8);
    });
    if (!any)
      report_.warn(value,
                   "`" + value.key.substr(value.key.rfind('.') + 1) +
                       "` names the weight dtype of no strategy: all are rounded to nearest");
  }

  LinearQuant read_linear(const Value& value) {
    LinearQuant quant;
    const MapReader reader(report_, value, schema::kLinear);
    quant.strategy = read_strategy(reader, value, Quantizer::kLinear);
    const auto child = [](const DocumentNode* map, const char* key) {
      return map != nullptr && map->is_map() ? map->find(key) : nullptr;
    };
    const DocumentNode* weight = child(child(value.node, "qconfig"), "weight");
    const DocumentNode* method = child(weight, "method");
    if (method != nullptr && method->text == "gptq") {
      quant.gptq.emplace();
      if (const DocumentNode* damp = child(child(weight, "ext"), "percdamp"))
        read_damp({damp, value.key + ".qconfig.weight.ext.percdamp"}, *quant.gptq);
    }
    return quant;
  }

  GptqQuant read_gptq(const Value& value) {
    GptqQuant quant;
    const MapReader reader(report_, value, schema::kGptq);
    if (const auto damp = reader.find("damp")) read_damp(*damp, quant.options);
    reader.boolean("act_order", quant.options.act_order);
    reader.boolean("refit", quant.options.refit);
    reader.integer("refine", 0, kMaxRefine, quant.options.refine);
    quant.strategies = read_strategies(reader);
    if (const auto solve = reader.find("solve")) {
      gptq::GptqOptions& options = quant.options;
      read_dtypes(*solve, quant.strategies, options.solve_int4, options.solve_int8);
    }
    return quant;
  }

  void read_damp(const Value& value, gptq::GptqOptions& options) {
    const auto damp = read_number(report_, value, 0);
    if (damp && *damp <= 1)
      options.damp = *damp;
    else if (damp)
      report_.problem(value, "the damping must be from 0 to 1", "write a number such as 0.01");
  }

  std::vector<Strategy> read_strategies(const MapReader& reader) {
    std::vector<Strategy> result;
    const auto strategies = reader.require("strategies");
    if (!strategies || !require_list(report_, *strategies)) return result;
    if (strategies->node->items.empty()) {
      report_.problem(*strategies, "there are no strategies, so nothing would be quantized",
                      "add one with a `qconfig`");
    }
    for (size_t i = 0; i < strategies->node->items.size(); ++i) {
      const Value item = strategies->item(i);
      if (require_map(report_, item))
        result.push_back(read_strategy(MapReader(report_, item, schema::kStrategy), item,
                                       Quantizer::kStrategies));
    }
    return result;
  }

  Strategy read_strategy(const MapReader& reader, const Value& value, Quantizer quantizer) {
    Strategy strategy;
    strategy.location = report_.locate(value);
    if (const auto qconfig = reader.require("qconfig"); qconfig && require_map(report_, *qconfig)) {
      strategy.scheme = read_scheme(*qconfig, quantizer);
    }
    strategy.include = read_patterns_or_all(reader, value);
    if (const auto exclude = reader.find("exclude")) strategy.exclude = read_patterns(*exclude);
    return strategy;
  }

  // `include` of a mapping, `*` when it has none.
  std::vector<Pattern> read_patterns_or_all(const MapReader& reader, const Value& value) {
    if (const auto include = reader.find("include"); include && !include->node->is_null())
      return read_patterns(*include);
    return {{.text = "*", .location = report_.locate(value)}};
  }

  std::vector<Pattern> read_patterns(const Value& value) {
    std::vector<Pattern> patterns;
    if (!require_list(report_, value)) return patterns;
    for (size_t i = 0; i < value.node->items.size(); ++i) {
      const Value item = value.item(i);
      const auto text = read_text(report_, item, kMaxNameCharacters);
      if (!text || num_alternatives_ > kMaxTotalAlternatives) continue;
      try {
        num_alternatives_ += expand_braces(*text).size();
      } catch (const Error& error) {
        report_.problem(item, error.problems().front().what, error.problems().front().fix);
      }
      if (num_alternatives_ > kMaxTotalAlternatives) {
        report_.problem(item,
                        "the patterns up to here expand to more than " +
                            std::to_string(kMaxTotalAlternatives) + " alternatives",
                        "use fewer or shorter braces, or a `*` in their place");
      }
      patterns.push_back({.text = *text, .location = report_.locate(item)});
    }
    return patterns;
  }

  // nullopt: float, or something is wrong and reported.
  std::optional<quant::LinearScheme> read_scheme(const Value& value, Quantizer quantizer) {
    const MapReader reader(report_, value, schema::kQconfig);
    std::optional<Side> weight, act = kFloatSide;
    if (const auto side = reader.require("weight"); side && require_map(report_, *side)) {
      weight = read_side(*side, /*is_weight=*/true, quantizer);
    }
    if (const auto side = reader.find("act")) {
      act = require_map(report_, *side) ? read_side(*side, /*is_weight=*/false, quantizer)
                                        : std::nullopt;
    }
    if (!weight || !act) return std::nullopt;
    if (weight->dtype == "float" && act->dtype == "float") return std::nullopt;
    for (const SupportedPair& pair : kSupportedPairs) {
      if (runs(pair, quantizer, weight->method) && weight->dtype == pair.weight_dtype &&
          weight->scope == pair.weight_scope && act->dtype == pair.act_dtype &&
          (act->scope == pair.act_scope || act->dtype == "float"))
        return scheme_of(*weight, *act);
    }
    report_.problem(
        value,
        describe_pair(weight->dtype, weight->scope, act->dtype, act->scope) + " is not supported",
        "supported: " + list_supported_pairs(quantizer, weight->method));
    return std::nullopt;
  }

  // nullopt when something is missing or wrong, and reported.
  std::optional<Side> read_side(const Value& value, bool is_weight, Quantizer quantizer) {
    Side side;
    const MapReader reader(report_, value, schema::kSide);
    const auto dtype = reader.require("dtype");
    const auto dtype_name =
        dtype
            ? read_choice(report_, *dtype, {"int8", "int4", "float", "mxfp8", "mxfp4", "fp8_e4m3"})
            : std::nullopt;
    const auto scope = reader.require("scope");
    const auto scope_name =
        scope ? read_choice(report_, *scope,
                            {"per_tensor", "per_channel", "per_group", "per_block", "per_token",
                             "pd_mix", "per_head", "dual_scale"})
              : std::nullopt;
    const auto symmetric = reader.require("symmetric");
    if (symmetric) side.symmetric = read_bool(report_, *symmetric).value_or(true);
    const auto method = reader.require("method");
    if (method) side.method = read_text(report_, *method, kMaxNameCharacters).value_or("minmax");

    const bool is_per_group = scope_name == "per_group";
    const bool has_group_size = read_ext(reader, is_weight, is_per_group, side);
    if (is_per_group && !has_group_size) {
      report_.problem(*scope, "`scope: per_group` needs the size of a group",
                      "add `ext: {group_size: 256}`");
    }
    if (!dtype_name || !scope_name) return std::nullopt;
    side.dtype = *dtype_name;
    side.scope = *scope_name;
    if (side.dtype == "float") return side;
    // autoround ignores `method`, as ever.
    if (quantizer == Quantizer::kLinear && method && side.method != "minmax" &&
        !(is_weight && side.method == "gptq")) {
      report_.problem(
          *method, "`method: " + printable(side.method) + "` is not supported",
          is_weight ? "write `method: minmax` or `method: gptq`" : "write `method: minmax`");
    }
    const bool may_be_asymmetric =
        quantizer == Quantizer::kLinear && !is_weight && side.scope == "per_tensor";
    if (!side.symmetric && !may_be_asymmetric) {
      report_.problem(
          *symmetric,
          is_weight
              ? "`symmetric: false` is not supported: the codes of an asymmetric weight do not fit "
                "the stored int8, and the inference engine ignores the offsets of W4A4"
              : "`symmetric: false` is not supported: the inference engine quantizes tokens "
                "symmetrically",
          "write `symmetric: true`");
    }
    return side;
  }

  // Reads `ext` of a side; true when it has a group size, right or wrong.
  bool read_ext(const MapReader& side_reader, bool is_weight, bool is_per_group, Side& side) {
    const auto ext = side_reader.find("ext");
    if (!ext || !require_map(report_, *ext)) return false;
    const MapReader reader(report_, *ext, schema::kExt);
    for (const DocumentNode& key : ext->node->keys) {
      if (contains(schema::kExt.keys, key.text)) continue;
      const std::string name = printable(key.text);
      report_.warn({&key, ext->key + "." + name},
                   "`" + name + "` has no meaning here and is ignored; known: " +
                       list_names(schema::kExt.keys));
    }
    if (const auto dtype = reader.find("scale_dtype"); dtype && is_weight) {
      const auto name = read_choice(report_, *dtype, {"float16", "float32", "bfloat16"});
      if (name == "float16") side.scale_dtype = DType::kF16;
      if (name == "float32") side.scale_dtype = DType::kF32;
    }
    if (const auto aggregation = reader.find("aggregation_type"))
      side.mean_range = read_choice(report_, *aggregation, {"max", "mean"}) == "mean";
    const auto group_size = reader.find("group_size");
    if (!group_size) return false;
    side.group_size =
        read_integer(report_, *group_size, 1, std::numeric_limits<int32_t>::max()).value_or(1);
    if (!is_per_group) {
      report_.problem(*group_size, "`group_size` goes only with `scope: per_group`",
                      "remove it, or write `scope: per_group`");
    }
    return true;
  }

  // -------------------------------------------------------------------------- order and savers

  // What the single entries cannot show: what stands twice, or in an order that would not work.
  void check_order(const Value& spec, const Recipe& recipe) {
    const Processor* fit = nullptr;
    for (const Stage& stage : recipe.prior) {
      for (const Processor& processor : stage.process) {
        if (!std::holds_alternative<FitRotation>(processor.what)) continue;
        if (fit != nullptr) {
          report_.problem(
              processor.location,
              "a second stage 1 of adapt_rotation would replace the rotation of the first",
              "keep one of them");
        }
        fit = &processor;
      }
    }
    const Processor* rotate = nullptr;
    const Processor* quantizer = nullptr;
    const Processor* heads = nullptr;
    const auto require_unquantized = [&](const Processor& processor, const std::string& type) {
      if (quantizer != nullptr)
        report_.problem(processor.location,
                        type +
                            " stands behind a quantizer: it would change weights that are "
                            "quantized already",
                        "move it in front of " + quantizer->location.key);
    };
    for (const Processor& processor : recipe.main.process) {
      if (std::holds_alternative<Rotate>(processor.what)) {
        if (rotate != nullptr) {
          report_.problem(processor.location, "a second rotation would rotate the weights again",
                          "keep one adapt_rotation stage 2 or one quarot");
        } else if (quantizer != nullptr) {
          report_.problem(processor.location,
                          "the rotation stands behind a quantizer: it would rotate weights that "
                          "are quantized already",
                          "move it in front of " + quantizer->location.key);
        }
        rotate = &processor;
      } else if (const auto* smooth = std::get_if<IterSmooth>(&processor.what)) {
        require_unquantized(processor, "iter_smooth");
        const bool online = rotate != nullptr && std::get<Rotate>(rotate->what).options.online;
        if (online && (smooth->options.ov || smooth->options.up_down))
          report_.problem(processor.location,
                          "`ov` and `up-down` scale channels that the online rotation in front of "
                          "them has mixed",
                          "move iter_smooth in front of " + rotate->location.key +
                              ", or keep norm-linear only");
      } else if (std::holds_alternative<HeadRotation>(processor.what)) {
        require_unquantized(processor, "head_rotation");
        heads = &processor;
      } else if (quantizer == nullptr) {
        quantizer = &processor;
      }
    }
    if (heads != nullptr && rotate != nullptr) {
      if (std::get<Rotate>(rotate->what).options.online)
        report_.problem(heads->location,
                        "head_rotation fits to what o_proj reads as it stands, which the online "
                        "rotation mixes across heads",
                        "write online: false, or remove head_rotation");
      else if (heads < rotate)
        report_.warn(spec,
                     "the rotation behind head_rotation turns value heads away from what was "
                     "fitted: move head_rotation behind it");
    }
    const bool uses_fitted = rotate != nullptr && std::get<Rotate>(rotate->what).options.use_fitted;
    if (uses_fitted && fit == nullptr && num_unread_fits_ == 0) {
      report_.problem(rotate->location,
                      "stage 2 of adapt_rotation needs the rotation that stage 1 fits, and "
                      "spec.prior has no stage 1",
                      "add `prior: [{process: [{type: adapt_rotation, stage: 1}]}]`, or write "
                      "`type: quarot` for the Hadamard rotation that is not fitted");
    }
    if (fit != nullptr && !uses_fitted) {
      report_.warn(spec, "stage 1 of adapt_rotation fits a rotation that no stage 2 applies");
    }
  }

  void read_saver(const Value& value, Recipe& recipe) {
    if (!require_map(report_, value)) return;
    if (!read_type(value, "saver", kSupportedSavers, kOtherSavers)) return;
    const MapReader reader(report_, value, schema::kAscendV1);
    save::AscendV1Options options;
    reader.integer("part_file_size", 0, kMaxPartFileGiB, options.part_file_size);
    if (const auto ext = reader.find("ext")) require_map(report_, *ext);
    if (const auto directory = reader.find("save_directory");
        directory && !directory->node->is_null()) {
      read_text(report_, *directory, kMaxDatasetCharacters);
    }
    recipe.save.push_back(options);
  }

  Report& report_;
  size_t num_alternatives_ = 0;  // of all patterns so far
  int num_unread_fits_ = 0;      // of `prior`, whose stage is missing or wrong
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
