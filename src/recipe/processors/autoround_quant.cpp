#include "recipe/processors.h"
#include "recipe/strategies.h"

namespace laos::recipe {
namespace {

constexpr int64_t kMaxIters = 1'000'000;
constexpr int64_t kAutoIters = 400;  // of `iters: auto`, at most: the published number

const MapSchema kAutoroundKeys = {"autoround_quant",
                                  {"type", "iters", "enable_minmax_tuning", "enable_round_tuning",
                                   "act_aware", "train", "strategies"}};

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
