#include "recipe/processors.h"

namespace laos::recipe {
namespace {

constexpr int64_t kMaxHeadSteps = 1000;

const MapSchema kHeadKeys = {"head_rotation", {"type", "steps"}};

std::optional<Options> read_heads(Reading& reading, const Value& value, Pass) {
  HeadRotation heads;
  const MapReader reader(reading.report, value, kHeadKeys);
  reader.integer("steps", 1, kMaxHeadSteps, heads.options.steps);
  return heads;
}

}  // namespace

ProcessorKind head_rotation_kind() {
  return {.type = "head_rotation", .keys = {&kHeadKeys}, .read = read_heads};
}

}  // namespace laos::recipe
