#include "recipe/processors.h"
#include "recipe/strategies.h"

namespace laos::recipe {
namespace {

const MapSchema kSmoothKeys = {"iter_smooth",
                               {"type", "alpha", "scale_min", "statistic", "symmetric",
                                "enable_subgraph_type", "include", "exclude"}};

// A number strictly between 0 and 1.
void read_fraction(Report& report, const MapReader& reader, const std::string& key, double& out) {
  const auto value = reader.find(key);
  if (!value) return;
  const auto number = read_number(report, *value, 0);
  if (!number) return;
  if (*number > 0 && *number < 1)
    out = *number;
  else
    report.problem(*value, "`" + key + "` must lie between 0 and 1, not at an end",
                   "write a number such as " + std::string(key == "alpha" ? "0.9" : "1.0e-5"));
}

std::optional<Options> read_smooth(Reading& reading, const Value& value, Pass) {
  Report& report = reading.report;
  IterSmooth smooth;
  smooth::SmoothOptions& options = smooth.options;
  const MapReader reader(report, value, kSmoothKeys);
  read_fraction(report, reader, "alpha", options.alpha);
  read_fraction(report, reader, "scale_min", options.scale_min);
  if (const auto statistic = reader.find("statistic"))
    if (const auto name = read_choice(report, *statistic, {"peak", "l4", "token_l4"}))
      options.statistic = *name == "peak" ? smooth::Statistic::kPeak
                          : *name == "l4" ? smooth::Statistic::kL4
                                          : smooth::Statistic::kTokenL4;
  if (const auto types = reader.find("enable_subgraph_type");
      types && require_list(report, *types)) {
    options.norm_linear = options.ov = options.up_down = false;
    for (size_t i = 0; i < types->node->items.size(); ++i) {
      const auto name =
          read_choice(report, types->item(i), {"norm-linear", "linear-linear", "ov", "up-down"});
      if (name == "norm-linear") options.norm_linear = true;
      if (name == "ov") options.ov = true;
      if (name == "up-down") options.up_down = true;
      if (name == "linear-linear" && types->node->items.size() == 1)
        report.warn(types->item(i), "Qwen3 has no `linear-linear` pair: nothing is smoothed");
    }
  }
  bool symmetric = true;
  reader.boolean("symmetric", symmetric);
  if (!symmetric && options.norm_linear)
    report.problem(*reader.find("symmetric"),
                   "`symmetric: false` with `norm-linear` would give norms and linears a bias, "
                   "which Qwen3 has not and engines skip when loading",
                   "write `symmetric: true`, or leave norm-linear out of enable_subgraph_type");
  smooth.include = read_patterns_or_all(reading, reader, value);
  if (const auto exclude = reader.find("exclude"); exclude && !exclude->node->is_null())
    smooth.exclude = read_patterns(reading, *exclude);
  return smooth;
}

}  // namespace

ProcessorKind iter_smooth_kind() {
  return {.type = "iter_smooth", .keys = {&kSmoothKeys}, .read = read_smooth};
}

}  // namespace laos::recipe
