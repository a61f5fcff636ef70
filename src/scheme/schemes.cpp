#include "scheme/schemes.h"

#include <algorithm>
#include <cmath>

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

constexpr LinearPart kLeftTrans = {"left_trans", DType::kBF16, DType::kF16, Dims::kLeft};
constexpr LinearPart kRightTrans = {"right_trans", DType::kBF16, DType::kF16, Dims::kRight};
// vLLM-Ascend cannot load a scalar into fused linears.
constexpr LinearPart kClipRatio = {"clip_ratio", DType::kF32, DType::kF32, Dims::kOne};

constexpr std::array kWeightOnly = {kWeight, kWeightScale, kWeightOffset};
constexpr std::array kPacked = {kPackedWeight, kWeightScale, kWeightOffset, kScaleBias};
constexpr std::array kTransformed = {kWeight,    kWeightScale, kWeightOffset,
                                     kLeftTrans, kRightTrans,  kClipRatio};
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
           .type_rank = 1,
           .refusal_of_experts = {"", "it has no float experts beside quantized linears"}},
    // vLLM-Ascend packs codes along in_features, SGLang along out_features, 8 to an int32.
    Scheme{.label = "W4A4_DYNAMIC",
           .weight_bits = 4,
           .act_bits = 4,
           .activations = Activations::kDynamic,
           .allows_groups = true,
           .parts = kWeightOnly,
           .in_multiple = 8,
           .out_multiple = 8,
           .type_rank = 6,
           .refusal_of_experts = {"it has no such experts", "", Scheme::kUntried,
                                  "it has no such experts"}},
    Scheme{.label = "W4A4_FLATQUANT_DYNAMIC",
           .weight_bits = 4,
           .act_bits = 4,
           .activations = Activations::kDynamic,
           .allows_groups = false,
           .parts = kTransformed,
           .in_multiple = 8,
           .out_multiple = 8,
           .transforms = true,
           .refusal = {"",
                       "it does not know the label, and computes with raw codes as with a float "
                       "weight",
                       "the format has no place for the matrices",
                       "the format has no place for the matrices"}},
    Scheme{.label = "W8A8_DYNAMIC",
           .weight_bits = 8,
           .act_bits = 8,
           .activations = Activations::kDynamic,
           .allows_groups = true,
           .parts = kWeightOnly,
           .scales_in_model_dtype = true,
           .type_rank = 3,
           .refusal_of_experts = {"", "", Scheme::kUntried}},
    Scheme{
        .label = "W8A16",
        .weight_bits = 8,
        .act_bits = 16,
        .activations = Activations::kFloat,
        .allows_groups = true,
        .parts = kWeightOnly,
        .scales_in_model_dtype = true,
        .type_rank = 2,
        .refusal = {"", "it does not know the label"},
        .refusal_of_experts = {Scheme::kUntried, "it does not know the label", Scheme::kUntried}},
    // AscendV1 has no name for it. Engines of the other formats multiply codes by whatever scale
    // there is, and AutoRound writes negative ones.
    Scheme{.label = "W4A16",
           .weight_bits = 4,
           .act_bits = 16,
           .activations = Activations::kFloat,
           .allows_groups = true,
           .signed_scales = true,
           .refusal_of_experts = {Scheme::kUntried, Scheme::kUntried, Scheme::kUntried}},
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
           .refusal = {"", Scheme::kUntried, "the format has no name for it",
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
                       "it keeps this label for experts"},
           .refusal_of_experts = {"", "", Scheme::kUntried,
                                  "it takes codes of such experts a byte each, which are not "
                                  "written so"}},
};

int64_t in_features_of_a_block(const LinearSizes& sizes) noexcept {
  return sizes.in_features / std::max<int64_t>(sizes.num_blocks, 1);
}

}  // namespace

PairSizes pair_sizes(int64_t in_features) {
  constexpr int64_t kMaxSize = 256, kRightMultiple = 8;
  PairSizes sizes;
  // a and b count up together, so that their squares are in_features apart at first sight.
  for (int64_t a = 1, b = 0; in_features > 0; ++a) {
    const int64_t square = a * a - in_features;
    if (square < 0) continue;
    while (b * b < square) ++b;
    if (b * b == square) {
      sizes = {.left = a - b, .right = a + b, .refusal = ""};
      break;
    }
    if (2 * a > in_features + 1) break;  // left would be below 1
  }
  const std::string text = std::to_string(in_features) + " inputs are no product of two sizes";
  if (sizes.left == 0)
    sizes.refusal = text;
  else if (sizes.right > kMaxSize)
    sizes.refusal = text + " of at most " + std::to_string(kMaxSize) + ": " +
                    std::to_string(sizes.left) + " by " + std::to_string(sizes.right);
  else if (sizes.right % kRightMultiple != 0)
    sizes.refusal = text + ", the second a multiple of " + std::to_string(kRightMultiple) + ": " +
                    std::to_string(sizes.left) + " by " + std::to_string(sizes.right);
  return sizes;
}

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
    case Dims::kLeft: {
      const int64_t left = pair_sizes(in_features_of_a_block(sizes)).left;
      return {left, left};
    }
    case Dims::kRight: {
      const int64_t right = pair_sizes(in_features_of_a_block(sizes)).right;
      return {right, right};
    }
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

bool EngineRow::loads(CheckpointFormat format) const noexcept {
  return std::ranges::find(formats, format) != formats.end();
}

Engine first_engine_of(CheckpointFormat format) noexcept {
  const auto row =
      std::ranges::find_if(kEngines, [&](const EngineRow& engine) { return engine.loads(format); });
  LAOS_ASSERT(row != kEngines.end());
  return row->engine;
}

bool Scheme::takes_scale(float scale) const noexcept {
  return std::isfinite(scale) && (signed_scales ? scale != 0 : scale > 0);
}

bool Scheme::packs_rows() const noexcept {
  return !parts.empty() && parts.front().dims == Dims::kHalfOutIn;
}

std::string Scheme::refused_by(Engine engine, int64_t num_groups, bool of_experts) const {
  std::string_view reason =
      (of_experts ? refusal_of_experts : refusal)[static_cast<size_t>(engine)];
  const EngineRow& row = row_of(engine);
  // No engine has experts of grouped scales whose inputs are quantized.
  const bool loads_groups = row.loads_groups && (!of_experts || activations == Activations::kFloat);
  const bool are_groups = reason.empty() && num_groups > 1 && !loads_groups;
  if (are_groups) reason = "it has one scale an output row";
  if (reason.empty()) return "";
  std::string text(row.title);
  text.append(" (").append(row.version).append(") does not load ");
  text.append(of_experts ? "experts of " : "").append(label);
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
