#include "recipe/processors.h"
#include "recipe/strategies.h"

namespace laos::recipe {
namespace {

constexpr int64_t kMaxIters = 1'000'000;
constexpr int64_t kAutoIters = 400;  // of `iters: auto`, at most: the published number

const MapSchema kAutoroundKeys = {"autoround_quant",
                                  {"type", "iters", "lr_scale", "enable_minmax_tuning",
                                   "enable_round_tuning", "act_aware", "train", "strategies"}};

void read_lr_scale(Report& report, const Value& value, double& lr_scale) {
  constexpr double kMost = 100;
  const auto scale = read_number(report, value, 0);
  if (scale && *scale > 0 && *scale <= kMost)
    lr_scale = *scale;
  else if (scale)
    report.problem(value, "the first step times iters must be above 0 and at most 100",
                   "5 is the published one, 1 what measured best on language models");
}

std::optional<Options> read_autoround(Reading& reading, const Value& value, Pass) {
  AutoroundQuant quant;
  autoround::TrainOptions& options = quant.options;
  const MapReader reader(reading.report, value, kAutoroundKeys);
  const auto iters = reader.find("iters");
  if (iters && iters->node->text == "auto") {
    options.until_flat = true;
    options.iters = kAutoIters;
  } else {
    reader.integer("iters", 1, kMaxIters, options.iters);
  }
  if (const auto scale = reader.find("lr_scale"))
    read_lr_scale(reading.report, *scale, options.lr_scale);
  reader.boolean("enable_minmax_tuning", options.enable_minmax_tuning);
  reader.boolean("enable_round_tuning", options.enable_round_tuning);
  reader.boolean("act_aware", options.act_aware);
  quant.strategies = read_strategies(reading, reader);
  if (const auto train = reader.find("train"))
    read_dtypes(reading.report, *train, quant.strategies, options.train_int4, options.train_int8);
  return quant;
}

}  // namespace

ProcessorKind autoround_quant_kind() {
  return {.type = "autoround_quant",
          .keys = {&kAutoroundKeys},
          .quantizes = true,
          .read = read_autoround};
}

}  // namespace laos::recipe
