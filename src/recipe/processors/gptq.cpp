// gptq_quant, and linear_quant, whose weights may be rounded by the same method.
#include "recipe/processors.h"
#include "recipe/strategies.h"

namespace laos::recipe {
namespace {

constexpr int64_t kMaxRefine = 100;

const MapSchema kGptqKeys = {
    "gptq_quant", {"type", "damp", "act_order", "refit", "refine", "solve", "strategies"}};
const MapSchema kLinearKeys = {"linear_quant", {"type", "qconfig", "include", "exclude"}};

void read_damp(Report& report, const Value& value, gptq::GptqOptions& options) {
  if (value.node->text == "auto") {
    options.damp = std::nullopt;
    return;
  }
  const auto damp = read_number(report, value, 0);
  if (damp && *damp <= 1)
    options.damp = *damp;
  else if (damp)
    report.problem(value, "the damping must be from 0 to 1",
                   "write a number such as 0.01, or auto");
}

void read_refit(Report& report, const Value& value, gptq::GptqOptions& options) {
  if (value.node->text == "auto")
    options.refit = std::nullopt;
  else if (const auto share = read_share(report, value, ", or auto"))
    options.refit = *share;
}

std::optional<Options> read_gptq(Reading& reading, const Value& value, Pass) {
  GptqQuant quant;
  gptq::GptqOptions& options = quant.options;
  const MapReader reader(reading.report, value, kGptqKeys);
  if (const auto damp = reader.find("damp")) read_damp(reading.report, *damp, options);
  reader.boolean("act_order", options.act_order);
  if (const auto refit = reader.find("refit")) read_refit(reading.report, *refit, options);
  reader.integer("refine", 0, kMaxRefine, options.refine);
  quant.strategies = read_strategies(reading, reader);
  const auto solve = reader.find("solve");
  if (solve && solve->node->is_list() && solve->node->items.empty())
    options.solve_int4 = options.solve_int8 = false;  // plain rounding, and meant so
  else if (solve)
    read_dtypes(reading.report, *solve, quant.strategies, options.solve_int4, options.solve_int8);
  return quant;
}

std::optional<Options> read_linear(Reading& reading, const Value& value, Pass) {
  LinearQuant quant;
  const MapReader reader(reading.report, value, kLinearKeys);
  quant.strategy = read_strategy(reading, reader, value, Quantizer::kLinear);
  const auto child = [](const DocumentNode* map, const char* key) {
    return map != nullptr && map->is_map() ? map->find(key) : nullptr;
  };
  const DocumentNode* weight = child(child(value.node, "qconfig"), "weight");
  const DocumentNode* method = child(weight, "method");
  if (method != nullptr && method->text == "gptq") {
    quant.gptq.emplace();
    if (const DocumentNode* damp = child(child(weight, "ext"), "percdamp"))
      read_damp(reading.report, {damp, value.key + ".qconfig.weight.ext.percdamp"}, *quant.gptq);
  }
  return quant;
}

}  // namespace

ProcessorKind gptq_quant_kind() {
  return {.type = "gptq_quant", .keys = {&kGptqKeys}, .quantizes = true, .read = read_gptq};
}

ProcessorKind linear_quant_kind() {
  return {.type = "linear_quant", .keys = {&kLinearKeys}, .quantizes = true, .read = read_linear};
}

}  // namespace laos::recipe
