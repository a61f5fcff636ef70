#include "recipe/strategies.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/error.h"
#include "core/words.h"
#include "recipe/glob.h"
#include "scheme/schemes.h"

namespace laos::recipe {
namespace {

const MapSchema kStrategyKeys = {"strategies[]", {"qconfig", "include", "exclude"}};
const MapSchema kQconfigKeys = {"qconfig", {"weight", "act"}};
const MapSchema kSideKeys = {"weight and act", {"dtype", "scope", "symmetric", "method", "ext"}};
const MapSchema kExtKeys = {
    "ext", {"group_size", "scale_dtype", "aggregation_type", "percdamp"}, /*open=*/true};

// An act/weight pair that laos runs. An act of dtype float has any scope.
struct SupportedPair {
  std::string weight_dtype;
  std::string weight_scope;
  std::string act_dtype;
  std::string act_scope;
  bool in_strategies;
  bool in_linear_quant;
};

// Every scheme that has a way to be made. Static ranges come from linear_quant alone; it makes no
// int4 activations and, but for method gptq, no groups.
std::vector<SupportedPair> list_pairs() {
  std::vector<SupportedPair> pairs;
  for (const scheme::Scheme& row : scheme::schemes()) {
    if (row.is_float() || row.transforms || row.activations == scheme::Activations::kEither)
      continue;
    const bool is_static = row.activations == scheme::Activations::kStatic;
    const bool is_float = row.activations == scheme::Activations::kFloat;
    for (const bool groups : {false, true})
      if (!groups || row.allows_groups)
        pairs.push_back({.weight_dtype = "int" + std::to_string(row.weight_bits),
                         .weight_scope = groups ? "per_group" : "per_channel",
                         .act_dtype = is_float ? "float" : "int" + std::to_string(row.act_bits),
                         .act_scope = is_static || is_float ? "per_tensor" : "per_token",
                         .in_strategies = !is_static,
                         .in_linear_quant = !groups && row.act_bits >= 8});
  }
  return pairs;
}

const std::vector<SupportedPair> kSupportedPairs = list_pairs();

int bits_of(const std::string& dtype) { return dtype == "int4" ? 4 : dtype == "int8" ? 8 : 16; }

// One side of a qconfig as it is written.
struct Side {
  std::string dtype;
  std::string scope;
  std::string method = "none";
  bool symmetric = true;
  int64_t group_size = 0;
  DType scale_dtype = DType::kBF16;
  quant::RangeFrom range = quant::RangeFrom::kAll;
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
    scheme.act.range = act.range;
  }
  return scheme;
}

std::string describe_pair(const std::string& weight_dtype, const std::string& weight_scope,
                          const std::string& act_dtype, const std::string& act_scope) {
  return "weight " + weight_dtype + " " + weight_scope + " with act " +
         (act_dtype == "float" ? act_dtype : act_dtype + " " + act_scope);
}

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

// Reads `ext` of a side; true when it has a group size, right or wrong.
bool read_ext(Report& report, const MapReader& side_reader, bool is_weight, bool is_per_group,
              Side& side) {
  const auto ext = side_reader.find("ext");
  if (!ext || !require_map(report, *ext)) return false;
  const MapReader reader(report, *ext, kExtKeys);
  for (const DocumentNode& key : ext->node->keys) {
    if (contains(kExtKeys.keys, key.text)) continue;
    const std::string name = printable(key.text);
    report.warn(
        {&key, ext->key + "." + name},
        "`" + name + "` has no meaning here and is ignored; known: " + listed(kExtKeys.keys));
  }
  if (const auto dtype = reader.find("scale_dtype"); dtype && is_weight) {
    const auto name = read_choice(report, *dtype, {"float16", "float32", "bfloat16"});
    if (name == "float16") side.scale_dtype = DType::kF16;
    if (name == "float32") side.scale_dtype = DType::kF32;
  }
  if (const auto aggregation = reader.find("aggregation_type");
      aggregation && read_choice(report, *aggregation, {"max", "mean"}) == "mean")
    side.range = quant::RangeFrom::kMean;
  const auto group_size = reader.find("group_size");
  if (!group_size) return false;
  side.group_size =
      read_integer(report, *group_size, 1, std::numeric_limits<int32_t>::max()).value_or(1);
  if (!is_per_group) {
    report.problem(*group_size, "`group_size` goes only with `scope: per_group`",
                   "remove it, or write `scope: per_group`");
  }
  return true;
}

// nullopt when something is missing or wrong, and reported.
std::optional<Side> read_side(Report& report, const Value& value, bool is_weight,
                              Quantizer quantizer) {
  Side side;
  const MapReader reader(report, value, kSideKeys);
  const auto dtype = reader.require("dtype");
  const auto dtype_name =
      dtype ? read_choice(report, *dtype, {"int8", "int4", "float", "mxfp8", "mxfp4", "fp8_e4m3"})
            : std::nullopt;
  const auto scope = reader.require("scope");
  const auto scope_name = scope
                              ? read_choice(report, *scope,
                                            {"per_tensor", "per_channel", "per_group", "per_block",
                                             "per_token", "pd_mix", "per_head", "dual_scale"})
                              : std::nullopt;
  const auto symmetric = reader.require("symmetric");
  if (symmetric) side.symmetric = read_bool(report, *symmetric).value_or(true);
  const auto method = reader.require("method");
  if (method) side.method = read_text(report, *method, kMaxNameCharacters).value_or("minmax");

  const bool is_per_group = scope_name == "per_group";
  const bool has_group_size = read_ext(report, reader, is_weight, is_per_group, side);
  if (is_per_group && !has_group_size) {
    report.problem(*scope, "`scope: per_group` needs the size of a group",
                   "add `ext: {group_size: 256}`");
  }
  if (!dtype_name || !scope_name) return std::nullopt;
  side.dtype = *dtype_name;
  side.scope = *scope_name;
  if (side.dtype == "float") return side;
  // autoround ignores `method`, as ever.
  const bool is_histogram = !is_weight && side.scope == "per_tensor" && side.method == "histogram";
  if (is_histogram) side.range = quant::RangeFrom::kLeastError;
  if (quantizer == Quantizer::kLinear && method && side.method != "minmax" && !is_histogram &&
      !(is_weight && side.method == "gptq")) {
    report.problem(*method, "`method: " + printable(side.method) + "` is not supported",
                   is_weight
                       ? "write `method: minmax` or `method: gptq`"
                       : "write `method: minmax`, or `method: histogram` with `scope: per_tensor`");
  }
  const bool may_be_asymmetric =
      quantizer == Quantizer::kLinear && !is_weight && side.scope == "per_tensor";
  if (!side.symmetric && !may_be_asymmetric) {
    report.problem(
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

// nullopt: float, or something is wrong and reported.
std::optional<quant::LinearScheme> read_scheme(Report& report, const Value& value,
                                               Quantizer quantizer) {
  const MapReader reader(report, value, kQconfigKeys);
  std::optional<Side> weight, act = kFloatSide;
  if (const auto side = reader.require("weight"); side && require_map(report, *side)) {
    weight = read_side(report, *side, /*is_weight=*/true, quantizer);
  }
  if (const auto side = reader.find("act")) {
    act = require_map(report, *side) ? read_side(report, *side, /*is_weight=*/false, quantizer)
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
  report.problem(
      value,
      describe_pair(weight->dtype, weight->scope, act->dtype, act->scope) + " is not supported",
      "supported: " + list_supported_pairs(quantizer, weight->method));
  return std::nullopt;
}

}  // namespace

std::vector<const MapSchema*> strategy_schemas() {
  return {&kStrategyKeys, &kQconfigKeys, &kSideKeys, &kExtKeys};
}

std::vector<Pattern> read_patterns(Reading& reading, const Value& value) {
  Report& report = reading.report;
  std::vector<Pattern> patterns;
  if (!require_list(report, value)) return patterns;
  for (size_t i = 0; i < value.node->items.size(); ++i) {
    const Value item = value.item(i);
    const auto text = read_text(report, item, kMaxNameCharacters);
    if (!text || reading.num_alternatives > kMaxTotalAlternatives) continue;
    try {
      reading.num_alternatives += expand_braces(*text).size();
    } catch (const Error& error) {
      report.problem(item, error.problems().front().what, error.problems().front().fix);
    }
    if (reading.num_alternatives > kMaxTotalAlternatives) {
      report.problem(item,
                     "the patterns up to here expand to more than " +
                         std::to_string(kMaxTotalAlternatives) + " alternatives",
                     "use fewer or shorter braces, or a `*` in their place");
    }
    patterns.push_back({.text = *text, .location = report.locate(item)});
  }
  return patterns;
}

std::vector<Pattern> read_patterns_or_all(Reading& reading, const MapReader& reader,
                                          const Value& value) {
  if (const auto include = reader.find("include"); include && !include->node->is_null())
    return read_patterns(reading, *include);
  return {{.text = "*", .location = reading.report.locate(value)}};
}

Strategy read_strategy(Reading& reading, const MapReader& reader, const Value& value,
                       Quantizer quantizer) {
  Report& report = reading.report;
  Strategy strategy;
  strategy.location = report.locate(value);
  if (const auto qconfig = reader.require("qconfig"); qconfig && require_map(report, *qconfig)) {
    strategy.scheme = read_scheme(report, *qconfig, quantizer);
  }
  strategy.include = read_patterns_or_all(reading, reader, value);
  if (const auto exclude = reader.find("exclude"))
    strategy.exclude = read_patterns(reading, *exclude);
  return strategy;
}

std::vector<Strategy> read_strategies(Reading& reading, const MapReader& reader) {
  Report& report = reading.report;
  std::vector<Strategy> result;
  const auto strategies = reader.require("strategies");
  if (!strategies || !require_list(report, *strategies)) return result;
  if (strategies->node->items.empty()) {
    report.problem(*strategies, "there are no strategies, so nothing would be quantized",
                   "add one with a `qconfig`");
  }
  for (size_t i = 0; i < strategies->node->items.size(); ++i) {
    const Value item = strategies->item(i);
    if (require_map(report, item))
      result.push_back(read_strategy(reading, MapReader(report, item, kStrategyKeys), item,
                                     Quantizer::kStrategies));
  }
  return result;
}

void read_dtypes(Report& report, const Value& value, const std::vector<Strategy>& strategies,
                 bool& int4, bool& int8) {
  if (!require_list(report, value)) return;
  int4 = int8 = false;
  for (size_t i = 0; i < value.node->items.size(); ++i)
    if (const auto dtype = read_choice(report, value.item(i), {"int4", "int8"}))
      (dtype == "int4" ? int4 : int8) = true;
  const bool any = std::any_of(strategies.begin(), strategies.end(), [&](const Strategy& s) {
    return s.scheme && (s.scheme->weight.bits == 4 ? int4 : int8);
  });
  if (!any)
    report.warn(value, "`" + value.key.substr(value.key.rfind('.') + 1) +
                           "` names the weight dtype of no strategy: all are rounded to nearest");
}

}  // namespace laos::recipe
