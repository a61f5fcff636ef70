// The schemes of a linear: one row for each, which says all that the rest of the program, the
// format and the engines make of it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/tensor.h"

namespace laos::scheme {

inline constexpr const char* kFloatLabel = "FLOAT";

// The sizes that a quantized linear's tensors follow from.
struct LinearSizes {
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t num_groups = 1;  // scales an output row
  int64_t num_slices = 1;  // columns of scale_bias: 16 where engines split in_features, else 1
  int64_t num_blocks = 1;  // of in_features, which share a pair of matrices
};

// The sizes of the pair of matrices that vLLM-Ascend's operator multiplies `in_features` inputs by:
// in_features = left * right, both as near to its root as there are (root a and root b with
// in_features = a² - b², a as small as possible, left = a - b, right = a + b). `refusal` is why the
// operator cannot take them, "" when it can: the sizes are 256 at most, right a multiple of 8.
struct PairSizes {
  int64_t left = 0, right = 0;
  std::string refusal;
};
PairSizes pair_sizes(int64_t in_features);

// Ranks that an engine may split a linear's inputs over, at most, as far as anything here looks.
inline constexpr int64_t kMaxTensorParallel = 64;

// One tensor of a quantized linear in an AscendV1 checkpoint.
struct LinearPart {
  enum class Dims {
    kOutIn,      // [out, in]
    kHalfOutIn,  // [out / 2, in]: rows 2 i and 2 i + 1 are the low and high nibbles of row i
    kOutGroups,  // [out, num_groups]
    kOutSlices,  // [out, num_slices]
    kLeft,       // [left, left]: see pair_sizes
    kRight,      // [right, right]
    kOut,        // [out]
    kOne         // [1]
  };

  std::string_view suffix;  // "weight", "weight_scale", ...
  DType dtype;
  DType other_dtype;  // accepted too; equal to dtype where there is no choice
  Dims dims;

  Shape shape(const LinearSizes& sizes) const;
};

// What happens to the input of a linear, and with it how the linear is computed.
enum class Activations {
  kFloat,    // stays float; weights are widened
  kDynamic,  // each token gets its own scale; products of integers
  kStatic,   // one range for all tokens, fixed at calibration; products of integers
  kEither    // the engine chooses between the two above; neither made nor computed here
};

// The programs that load checkpoints, each with the formats whose loaders were read.
enum class CheckpointFormat { kAscendV1, kCompressedTensors, kGptq };
inline constexpr std::array kAscendV1Alone = {CheckpointFormat::kAscendV1};
inline constexpr std::array kOfGpus = {CheckpointFormat::kCompressedTensors,
                                       CheckpointFormat::kGptq};
enum class Engine { kVllmAscend, kSglang, kTransformers, kVllm };
struct EngineRow {
  Engine engine;
  std::span<const CheckpointFormat> formats;
  std::string_view name;     // as on the command line
  std::string_view title;    // as in sentences
  std::string_view version;  // whose loader the columns of `refusal` were read from
  bool loads_groups;         // several scales an output row
  bool loads_cache_scales;   // attention's cache in int8

  bool loads(CheckpointFormat format) const noexcept;
};
inline constexpr std::array<EngineRow, 4> kEngines = {{
    {Engine::kVllmAscend, kAscendV1Alone, "vllm-ascend", "vLLM-Ascend", "main of 2026-08-22", false,
     true},
    {Engine::kSglang, kAscendV1Alone, "sglang", "SGLang", "0.5.23", false, false},
    {Engine::kTransformers, kOfGpus, "transformers", "transformers",
     "5.24.0 with compressed-tensors 0.20.1 or GPTQModel 7.7.0", true, false},
    {Engine::kVllm, kOfGpus, "vllm", "vLLM", "0.33.0", true, false},
}};
const EngineRow& row_of(Engine engine) noexcept;
// The one that a checkpoint of the format is for where none is named.
Engine first_engine_of(CheckpointFormat format) noexcept;

struct Scheme {
  static constexpr std::string_view kUntried = "not tried";

  std::string_view label;  // also in quant_model_description.json
  int weight_bits;         // 16 = float
  int act_bits;            // 16 = float
  Activations activations;
  bool allows_groups;  // more than one scale an output row
  // In AscendV1, in write order, the weight first; none for FLOAT and for what it does not hold.
  std::span<const LinearPart> parts = {};
  int64_t in_multiple = 1, out_multiple = 1;  // of in_features and out_features, to be packed
  bool scales_in_model_dtype = false;         // engines hold weight_scale so, else in f32
  bool signed_scales = false;                 // all engines that load it take negative ones
  // Engines multiply each token by a pair of matrices before they quantize it, and clip it.
  bool transforms = false;
  // Of two labels in a checkpoint the higher is its model_quant_type; 0 does not count.
  int type_rank = 0;
  std::array<std::string_view, kEngines.size()> refusal = {};  // why each engine does not load it
  // The same of the linears of routed experts, for which engines have other code.
  std::array<std::string_view, kEngines.size()> refusal_of_experts = {kUntried, kUntried, kUntried,
                                                                      kUntried};

  bool is_float() const noexcept { return weight_bits == 16; }
  bool in_ascendv1() const noexcept { return is_float() || !parts.empty(); }
  // Two rows of 4-bit codes in one row of bytes.
  bool packs_rows() const noexcept;
  // Whether a weight may have that scale: finite, and above 0 or, with signs, not 0.
  bool takes_scale(float scale) const noexcept;
  // Why the engine does not load linears of this scheme with so many scales an output row, as a
  // sentence; "" when it does. `of_experts`: linears of routed experts.
  std::string refused_by(Engine engine, int64_t num_groups = 1, bool of_experts = false) const;
};

// FLOAT first.
std::span<const Scheme> schemes() noexcept;
// Null for a label that is not in the table.
const Scheme* find(std::string_view label) noexcept;
// "A, B": the labels for which `filter` holds, for messages.
std::string list_labels(bool (*filter)(const Scheme&) = nullptr);

// The highest of `labels`, which the format calls its model_quant_type; "Unknown" without any.
std::string model_quant_type(std::span<const std::string> labels);

}  // namespace laos::scheme
