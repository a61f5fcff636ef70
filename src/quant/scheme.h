// What a linear's weight and activations are quantized to, and the format label of the pair.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/dtype.h"
#include "scheme/schemes.h"

namespace laos::quant {

// Integer weight: real = scale * q, q in [-2^(bits-1), 2^(bits-1) - 1], symmetric. A signed scale
// may be negative: the code -2^(bits-1), which has no positive twin, then stands for the largest
// value whatever its sign, and steps are finer by 1 in 2^(bits-1).
struct WeightSpec {
  int bits = 8;            // 4 or 8
  int64_t group_size = 0;  // in_features per scale; 0 = per-channel (one scale an output row)
  DType scale_dtype =
      DType::kBF16;         // scales are rounded to it (kF32, kBF16, kF16) before they are used
  float min_scale = 1e-5f;  // the smallest scale there is: 1e-5 for autoround, 2^-23 for minmax
  bool signed_scale = false;

  int32_t q_max() const noexcept { return (1 << (bits - 1)) - 1; }
  // Steps from zero to a row's largest value.
  int32_t steps() const noexcept { return q_max() + (signed_scale ? 1 : 0); }
  bool operator==(const WeightSpec&) const = default;
};

// What a static range is: that of all values, the mean of the samples' own ranges, or the share of
// the first with the least squared error.
enum class RangeFrom { kAll, kMean, kLeastError };

// Activations of a linear: dynamic per-token symmetric, or one range for all tokens fixed at
// calibration. bits 16 = not quantized.
struct ActSpec {
  int bits = 8;             // 4, 8 or 16
  bool is_static = false;   // per tensor; 8 bits only
  bool symmetric = true;    // of a static range; a dynamic one is always symmetric
  RangeFrom range = RangeFrom::kAll;  // of a static range
  // Dynamic ones that a pair of matrices changes first, and that are clipped: so many equal blocks
  // of inputs share the pair. 0: they are quantized as they are.
  int64_t pair_blocks = 0;
  // 0: the pair is of the sizes of scheme::pair_sizes. Else it is I ⊗ B, B of so many rows, which
  // can be cut for several numbers of blocks.
  int64_t pair_unit = 0;

  int32_t q_max() const noexcept { return (1 << (bits - 1)) - 1; }
  bool operator==(const ActSpec&) const = default;
};

struct LinearScheme {
  WeightSpec weight;
  ActSpec act;

  bool operator==(const LinearScheme&) const = default;
};

// The label of the scheme (scheme/schemes.h) that a pair belongs to; nullopt when none holds it.
std::optional<std::string> label_of(const LinearScheme& scheme);

}  // namespace laos::quant
