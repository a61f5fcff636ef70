#include <algorithm>
#include <array>

#include "recipe/processors.h"
#include "recipe/strategies.h"
#include "scheme/schemes.h"

namespace laos::recipe {
namespace {

// Options of msModelSlim's trainer, whose reader takes their defaults only, and as YAML spells
// those. What is trained here is another thing.
struct Fixed {
  const char* key;
  std::string_view value;
};
constexpr std::array kFixed = {Fixed{"seed", "0"},
                               Fixed{"diag_relu", "true"},
                               Fixed{"amp_dtype", "bfloat16"},
                               Fixed{"a_bits", "4"},
                               Fixed{"a_groupsize", "-1"},
                               Fixed{"a_asym", "false"},
                               Fixed{"a_per_tensor", "false"},
                               Fixed{"w_bits", "4"},
                               Fixed{"w_groupsize", "-1"},
                               Fixed{"w_asym", "false"},
                               Fixed{"epochs", "10"},
                               Fixed{"cali_bsz", "4"},
                               Fixed{"flat_lr", "0.001"},
                               Fixed{"add_diag", "true"},
                               Fixed{"lwc", "true"},
                               Fixed{"lac", "true"},
                               Fixed{"diag_init", "one_style"},
                               Fixed{"diag_alpha", "0.3"},
                               Fixed{"warmup", "true"},
                               Fixed{"deactive_amp", "true"},
                               Fixed{"tran_type", "svd"}};

MapSchema flatquant_keys() {
  MapSchema schema{"flatquant", {"type", "include", "exclude", "method", "clip", "tp", "unfit"}};
  for (const Fixed& fixed : kFixed) schema.keys.emplace_back(fixed.key);
  return schema;
}
const MapSchema kFlatquantKeys = flatquant_keys();

bool is_fixed_value(const DocumentNode& node, std::string_view expected) {
  if (node.text == expected) return true;
  try {
    size_t read_actual = 0, read_expected = 0;
    const double actual = std::stod(node.text, &read_actual),
                 wanted = std::stod(std::string(expected), &read_expected);
    return read_actual == node.text.size() && read_expected == expected.size() && actual == wanted;
  } catch (const std::exception&) {
    return false;
  }
}

void check_fixed(Report& report, const MapReader& reader) {
  for (const Fixed& fixed : kFixed) {
    const auto value = reader.find(fixed.key);
    if (!value || is_fixed_value(*value->node, fixed.value)) continue;
    report.problem(*value,
                   std::string("`") + fixed.key +
                       "` is of a training that is not done here; its "
                       "default, " +
                       std::string(fixed.value) + ", is all that it may be",
                   "leave the key out");
  }
}

// A whole number or a list of different ones.
std::vector<int64_t> read_sizes(Report& report, const Value& value) {
  std::vector<int64_t> sizes;
  const auto add = [&](const Value& item) {
    const std::optional<int64_t> size = read_integer(report, item, 1, scheme::kMaxTensorParallel);
    if (!size) return;
    if (std::ranges::find(sizes, *size) == sizes.end())
      sizes.push_back(*size);
    else
      report.problem(item, std::to_string(*size) + " is there twice", "leave it out");
  };
  if (!value.node->is_list()) {
    add(value);
  } else {
    for (size_t i = 0; i < value.node->items.size(); ++i) add(value.item(i));
    if (value.node->items.empty())
      report.problem(value, "an empty list of sizes", "name one, as tp: 1");
  }
  if (sizes.empty()) sizes = {1};  // what is wrong has been said
  return sizes;
}

std::optional<Options> read_flatquant(Reading& reading, const Value& value, Pass) {
  Report& report = reading.report;
  Flatquant result;
  const MapReader reader(report, value, kFlatquantKeys);
  if (const auto method = reader.find("method"))
    if (const auto name =
            read_choice(report, *method, {"auto", "train", "closed", "hadamard", "none"}))
      result.options.method = *name == "auto"       ? flatquant::Method::kAuto
                              : *name == "train"    ? flatquant::Method::kTrain
                              : *name == "closed"   ? flatquant::Method::kClosed
                              : *name == "hadamard" ? flatquant::Method::kHadamard
                                                    : flatquant::Method::kNone;
  reader.boolean("clip", result.options.clip);
  if (const auto tp = reader.find("tp")) result.tp = read_sizes(report, *tp);
  if (const auto unfit = reader.find("unfit"))
    result.keeps_unfit = read_choice(report, *unfit, {"refuse", "keep"}) == "keep";
  check_fixed(report, reader);
  result.include = read_patterns_or_all(reading, reader, value);
  if (const auto exclude = reader.find("exclude"); exclude && !exclude->node->is_null())
    result.exclude = read_patterns(reading, *exclude);
  return result;
}

}  // namespace

ProcessorKind flatquant_kind() {
  return {.type = "flatquant", .keys = {&kFlatquantKeys}, .read = read_flatquant};
}

}  // namespace laos::recipe
