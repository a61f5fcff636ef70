#include "scheme/schemes.h"

#include "core/error.h"

namespace laos::scheme {
namespace {

using Dims = LinearPart::Dims;

constexpr LinearPart kWeight = {"weight", DType::kI8, DType::kI8, Dims::kOutIn};
constexpr LinearPart kPackedWeight = {"weight", DType::kI8, DType::kI8, Dims::kHalfOutIn};
constexpr LinearPart kWeightScale = {"weight_scale", DType::kF32, DType::kF32, Dims::kOutGroups};
constexpr LinearPart kWeightOffset = {"weight_offset", DType::kF32, DType::kF32, Dims::kOutGroups};
constexpr LinearPart kScaleBias = {"scale_bias", DType::kF32, DType::kF32, Dims::kOutSlices};
constexpr LinearPart kInputScale = {"input_scale", DType::kF32, DType::kBF16, Dims::kOne};
constexpr LinearPart kInputOffset = {"input_offset", DType::kF32, DType::kBF16, Dims::kOne};
constexpr LinearPart kDeqScale = {"deq_scale", DType::kF32, DType::kI64, Dims::kOut};
constexpr LinearPart kQuantBias = {"quant_bias", DType::kI32, DType::kI32, Dims::kOut};

constexpr std::array kWeightOnly = {kWeight, kWeightScale, kWeightOffset};
constexpr std::array kPacked = {kPackedWeight, kWeightScale, kWeightOffset, kScaleBias};
constexpr std::array kStatic = {kWeight, kInputScale, kInputOffset, kDeqScale, kQuantBias};
constexpr std::array kMixed = {kWeight,      kWeightScale, kWeightOffset, kInputScale,
                               kInputOffset, kDeqScale,    kQuantBias};

// Read from the loaders of the versions in kEngines, and run with them on a CPU.
constexpr std::array kSchemes = {
    Scheme{.label = kFloatLabel,
           .weight_bits = 16,
           .act_bits = 16,
           .activations = Activations::kFloat,
           .allows_groups = false,
           .type_rank = 1},
    // vLLM-Ascend packs codes along in_features, SGLang along out_features, 8 to an int32.
    Scheme{.label = "W4A4_DYNAMIC",
           .weight_bits = 4,
           .act_bits = 4,
           .activations = Activations::kDynamic,
           .allows_groups = true,
           .parts = kWeightOnly,
           .in_multiple = 8,
           .out_multiple = 8,
           .type_rank = 6},
    Scheme{.label = "W8A8_DYNAMIC",
           .weight_bits = 8,
           .act_bits = 8,
           .activations = Activations::kDynamic,
           .allows_groups = true,
           .parts = kWeightOnly,
           .scales_in_model_dtype = true,
           .type_rank = 3},
    Scheme{.label = "W8A16",
           .weight_bits = 8,
           .act_bits = 16,
           .activations = Activations::kFloat,
           .allows_groups = true,
           .parts = kWeightOnly,
           .scales_in_model_dtype = true,
           .type_rank = 2,
           .refusal = {"", "it does not know the label"}},
    // AscendV1 has no name for it.
    Scheme{.label = "W4A16",
           .weight_bits = 4,
           .act_bits = 16,
           .activations = Activations::kFloat,
           .allows_groups = true},
    Scheme{.label = "W8A8",
           .weight_bits = 8,
           .act_bits = 8,
           .activations = Activations::kStatic,
           .allows_groups = false,
           .parts = kStatic,
           .type_rank = 5},
    Scheme{.label = "W8A8_MIX",
           .weight_bits = 8,
           .act_bits = 8,
           .activations = Activations::kEither,
           .allows_groups = false,
           .parts = kMixed,
           .scales_in_model_dtype = true,
           .type_rank = 4,
           .refusal = {"", "not tried", "the format has no name for it",
                       "the format has no name for it"}},
    Scheme{.label = "W4A8_DYNAMIC",
           .weight_bits = 4,
           .act_bits = 8,
           .activations = Activations::kDynamic,
           .allows_groups = false,
           .parts = kPacked,
           .out_multiple = 2,
           .refusal = {"it keeps this label for experts, and older releases want two levels of "
                       "scales",
                       "it keeps this label for experts"}},
};

}  // namespace

Shape LinearPart::shape(const LinearSizes& sizes) const {
  switch (dims) {
    case Dims::kOutIn:
      return {sizes.out_features, sizes.in_features};
    case Dims::kHalfOutIn:
      return {sizes.out_features / 2, sizes.in_features};
    case Dims::kOutGroups:
      return {sizes.out_features, sizes.num_groups};
    case Dims::kOutSlices:
      return {sizes.out_features, sizes.num_slices};
    case Dims::kOut:
      return {sizes.out_features};
    case Dims::kOne:
      return {1};
  }
  return {};
}

const EngineRow& row_of(Engine engine) noexcept {
  const EngineRow& row = kEngines[static_cast<size_t>(engine)];
  LAOS_ASSERT(row.engine == engine);
  return row;
}

bool Scheme::packs_rows() const noexcept {
  return !parts.empty() && parts.front().dims == Dims::kHalfOutIn;
}

std::string Scheme::refused_by(Engine engine, int64_t num_groups) const {
  std::string_view reason = refusal[static_cast<size_t>(engine)];
  const EngineRow& row = row_of(engine);
  const bool are_groups = reason.empty() && num_groups > 1 && !row.loads_groups;
  if (are_groups) reason = "it has one scale an output row";
  if (reason.empty()) return "";
  std::string text(row.title);
  text.append(" (").append(row.version).append(") does not load ").append(label);
  if (are_groups) text += " with per-group scales";
  return text.append(": ").append(reason);
}

std::span<const Scheme> schemes() noexcept { return kSchemes; }

const Scheme* find(std::string_view label) noexcept {
  for (const Scheme& row : kSchemes)
    if (row.label == label) return &row;
  return nullptr;
}

std::string list_labels(bool (*filter)(const Scheme&)) {
  std::string list;
  for (const Scheme& row : kSchemes)
    if (filter == nullptr || filter(row)) list.append(list.empty() ? "" : ", ").append(row.label);
  return list;
}

std::string model_quant_type(std::span<const std::string> labels) {
  const Scheme* highest = nullptr;
  for (const std::string& label : labels) {
    const Scheme* row = find(label);
    if (row != nullptr && row->type_rank > (highest == nullptr ? 0 : highest->type_rank))
      highest = row;
  }
  return highest == nullptr ? "Unknown" : std::string(highest->label);
}

}  // namespace laos::scheme
