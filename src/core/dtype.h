// Element types of tensors, by their safetensors names, and the 16-bit floats.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace laos {

enum class DType { kF64, kF32, kBF16, kF16, kI64, kI32, kI16, kI8, kU8, kBool };

int64_t size_of(DType dtype) noexcept;             // bytes per element
std::string_view to_string(DType dtype) noexcept;  // "F32", "BF16", "I8", ...
// Throws Error(kFormat) for a name that is not a safetensors dtype we read.
DType dtype_from_string(std::string_view name);

// bfloat16 bits <-> float. To bf16 rounds half to even; NaN stays NaN.
inline float bf16_to_float(uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
inline uint16_t float_to_bf16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// IEEE binary16 bits <-> float. To f16 rounds half to even and overflows to infinity.
float f16_to_float(uint16_t bits) noexcept;
uint16_t float_to_f16(float value) noexcept;

// `value` rounded to what `dtype` (kF32, kBF16 or kF16) can hold.
float round_to(DType dtype, float value) noexcept;

}  // namespace laos
