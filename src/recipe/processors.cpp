#include "recipe/processors.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/words.h"
#include "recipe/savers.h"

namespace laos::recipe {
namespace {

// In the order in which messages list them.
const std::vector<ProcessorKind>& processor_table() {
  static const std::vector<ProcessorKind> kTable = {
      adapt_rotation_kind(), quarot_kind(),       head_rotation_kind(), iter_smooth_kind(),
      flatquant_kind(),      linear_quant_kind(), gptq_quant_kind(),    autoround_quant_kind(),
  };
  return kTable;
}

// Types of the format that laos does not run.
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
                                                   "svd_res",
                                                   "unary_analysis",
                                                   "binary_analysis",
                                                   "binary_operator_layer_wise",
                                                   "binary_operator_model_wise"};

// A group is no processor of its own: those in it are read in its place.
const char* const kGroup = "group";
const MapSchema kGroupKeys = {kGroup, {"type", "configs"}};

std::vector<std::string> processor_types() {
  std::vector<std::string> types;
  for (const ProcessorKind& kind : processor_table()) types.push_back(kind.type);
  types.emplace_back(kGroup);
  return types;
}

std::optional<Processor> read_processor(Reading& reading, const Value& value, Pass pass) {
  Report& report = reading.report;
  if (const DocumentNode* type = value.node->find("type");
      type != nullptr && is_saver(type->text)) {
    report.problem({type, value.key + ".type"}, "`" + type->text + "` is a saver, not a processor",
                   "move it to spec.save");
    return std::nullopt;
  }
  const auto type = read_type(report, value, "processor", processor_types(), kOtherProcessors);
  if (!type) return std::nullopt;
  const ProcessorKind& kind = processor_kind(*type);
  if (pass == Pass::kPrior && !kind.checks_pass) {
    report.problem(value,
                   *type +
                       " stands in spec.prior, whose only result is the fitted rotation: "
                       "what it does would be lost",
                   "move it to spec.process");
  }
  std::optional<Options> options = kind.read(reading, value, pass);
  if (!options) return std::nullopt;
  return Processor{.what = std::move(*options), .location = report.locate(value), .type = *type};
}

}  // namespace

const ProcessorKind& processor_kind(const std::string& type) {
  const std::vector<ProcessorKind>& table = processor_table();
  const auto found =
      std::ranges::find_if(table, [&](const ProcessorKind& kind) { return kind.type == type; });
  LAOS_ASSERT(found != table.end());
  return *found;
}

std::vector<const MapSchema*> processor_schemas() {
  std::vector<const MapSchema*> schemas = {&kGroupKeys};
  for (const ProcessorKind& kind : processor_table())
    schemas.insert(schemas.end(), kind.keys.begin(), kind.keys.end());
  return schemas;
}

std::vector<Processor> read_processors(Reading& reading, const Value& value, Pass pass) {
  Report& report = reading.report;
  std::vector<Processor> processors;
  if (!require_list(report, value)) return processors;
  if (value.node->items.empty()) {
    report.problem(value, "there are no processors, so there is nothing to do",
                   "add one of " + listed(processor_types()));
  }
  for (size_t i = 0; i < value.node->items.size(); ++i) {
    const Value item = value.item(i);
    if (!require_map(report, item)) continue;
    if (const DocumentNode* type = item.node->find("type");
        type != nullptr && type->text == kGroup) {
      const MapReader group(report, item, kGroupKeys);
      const auto configs = group.require("configs");
      if (!configs) continue;
      for (Processor& processor : read_processors(reading, *configs, pass))
        processors.push_back(std::move(processor));
    } else if (auto processor = read_processor(reading, item, pass)) {
      processors.push_back(std::move(*processor));
    }
  }
  return processors;
}

}  // namespace laos::recipe
