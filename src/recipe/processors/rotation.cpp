// adapt_rotation, which is fitted, and quarot, which is not.
#include <bit>
#include <limits>

#include "recipe/processors.h"

namespace laos::recipe {
namespace {

constexpr size_t kMaxLayerTypeCharacters = 128;
constexpr int64_t kMaxBlockSize = int64_t{1} << 30;

const MapSchema kFitKeys = {"adapt_rotation, stage 1",
                            {"type", "stage", "objective", "steps", "quant_dtype", "layer_type",
                             "block_size", "max_samples"}};
const MapSchema kRotateKeys = {
    "adapt_rotation, stage 2",
    {"type", "stage", "online", "block_size", rotation::kDownOnlineLayersKey, "max_tp_size",
     "export_extra_info"}};
const MapSchema kQuarotKeys = {"quarot",
                               {"type", "online", "block_size", rotation::kDownOnlineLayersKey,
                                "max_tp_size", "export_extra_info"}};

void require_power_of_two(Report& report, const MapReader& reader, const std::string& key,
                          int64_t number) {
  if (number > 0 && std::has_single_bit(static_cast<uint64_t>(number))) return;
  report.problem(*reader.find(key),
                 "`" + key + "` must be a power of two, not " + std::to_string(number),
                 key == "block_size" ? "write a power of two, or -1 for one whole block"
                                     : "write a power of two such as 4");
}

void read_block_size(Report& report, const MapReader& reader, int64_t& block_size) {
  reader.integer("block_size", -1, kMaxBlockSize, block_size);
  if (block_size != -1) require_power_of_two(report, reader, "block_size", block_size);
}

std::vector<std::string> read_layer_types(Report& report, const Value& value) {
  std::vector<std::string> types = read_texts(report, value, kMaxLayerTypeCharacters);
  const std::string example = rotation::FitOptions().layer_type.front();
  if (value.node->is_list() && value.node->items.empty()) {
    report.problem(value, "`layer_type` names no linear",
                   "list at least one, e.g. `[" + example + "]`");
  }
  for (size_t i = 0; value.node->is_list() && i < value.node->items.size(); ++i) {
    const DocumentNode& item = value.node->items[i];
    if (item.scalar.kind == ScalarKind::kText && item.kind == DocumentNode::Kind::kScalar &&
        item.text.find_first_not_of(" \t\r\n") == std::string::npos) {
      report.problem(value.item(i), "a blank name would match every linear",
                     "write part of a linear's name, e.g. `" + example + "`");
    }
  }
  return types;
}

FitRotation read_fit(Report& report, const Value& value) {
  FitRotation fit;
  rotation::FitOptions& options = fit.options;
  const MapReader reader(report, value, kFitKeys, &kRotateKeys);
  if (const auto objective = reader.find("objective")) {
    if (const auto name = read_choice(report, *objective, {"procrustes", "token_range"});
        name && *name == "token_range") {
      options = rotation::default_fit(rotation::FitObjective::kTokenRange);
    }
  }
  reader.integer("steps", 1, 1000, options.steps);
  if (const auto dtype = reader.find("quant_dtype")) {
    if (const auto name = read_choice(report, *dtype, {"int4", "int8"})) {
      options.quant_bits = *name == "int4" ? 4 : 8;
    }
  }
  if (const auto types = reader.find("layer_type"))
    options.layer_type = read_layer_types(report, *types);
  read_block_size(report, reader, options.block_size);
  reader.integer("max_samples", 1, 100'000, options.max_samples);
  return fit;
}

Rotate read_rotate(Report& report, const MapReader& reader, bool use_fitted) {
  Rotate rotate;
  rotation::RotateOptions& options = rotate.options;
  options.use_fitted = use_fitted;
  reader.boolean("online", options.online);
  reader.boolean("export_extra_info", options.export_extra_info);
  read_block_size(report, reader, options.block_size);
  if (const auto layers = reader.find(rotation::kDownOnlineLayersKey);
      layers && require_list(report, *layers)) {
    for (size_t i = 0; i < layers->node->items.size(); ++i) {
      const auto layer =
          read_integer(report, layers->item(i), 0, std::numeric_limits<int32_t>::max());
      if (layer) options.down_online_layers.push_back(*layer);
    }
  }
  // quarot has no upper bound of its own; one beyond every model is refused by the plan.
  reader.integer("max_tp_size", 1, use_fitted ? 64 : kMaxBlockSize, options.max_tp_size);
  require_power_of_two(report, reader, "max_tp_size", options.max_tp_size);
  return rotate;
}

// The stage of an adapt_rotation, which decides its keys; refuses one in the wrong pass.
std::optional<int> read_rotation_stage(Report& report, const Value& value, Pass pass) {
  const DocumentNode* node = value.node->find("stage");
  if (node == nullptr) {
    report.problem(value, "`stage` is missing",
                   "add `stage: 1` to fit the rotation (in spec.prior), `stage: 2` to apply it");
    return std::nullopt;
  }
  const auto stage = read_integer(report, {node, value.key + ".stage"}, 1, 2);
  if (!stage) return std::nullopt;
  if (*stage == 1 && pass == Pass::kMain) {
    report.problem(
        value,
        "stage 1 of adapt_rotation stands in spec.process: its rotation would be fitted only "
        "after stage 2 has looked for it",
        "move it to spec.prior: `prior: [{process: [{type: adapt_rotation, stage: 1}]}]`");
  }
  if (*stage == 2 && pass == Pass::kPrior) {
    report.problem(
        value,
        "stage 2 of adapt_rotation stands in spec.prior: each pass begins with the unrotated "
        "model, so it would have no effect",
        "move it to spec.process, in front of autoround_quant");
  }
  return static_cast<int>(*stage);
}

}  // namespace

ProcessorKind adapt_rotation_kind() {
  return {.type = "adapt_rotation",
          .keys = {&kFitKeys, &kRotateKeys},
          .checks_pass = true,
          .read = [](Reading& reading, const Value& value, Pass pass) -> std::optional<Options> {
            Report& report = reading.report;
            const std::optional<int> stage = read_rotation_stage(report, value, pass);
            if (!stage) {
              reading.has_unread_fit |= pass == Pass::kPrior;
              return std::nullopt;
            }
            if (*stage == 1) return read_fit(report, value);
            return read_rotate(report, MapReader(report, value, kRotateKeys, &kFitKeys),
                               /*use_fitted=*/true);
          }};
}

ProcessorKind quarot_kind() {
  return {.type = "quarot",
          .keys = {&kQuarotKeys},
          .read = [](Reading& reading, const Value& value, Pass) -> std::optional<Options> {
            return read_rotate(reading.report, MapReader(reading.report, value, kQuarotKeys),
                               /*use_fitted=*/false);
          }};
}

}  // namespace laos::recipe
